"""The authors' released models in, and ours out."""
