"""From files to batches: drawing, preparing, reading and feeding faces."""
