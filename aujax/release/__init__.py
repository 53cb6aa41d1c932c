"""The authors' released models as run folders, and run folders as weight files."""
