"""Tables and figures from run folders: files in, files out, on NumPy and matplotlib alone."""
