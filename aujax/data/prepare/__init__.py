"""The command `aujax prepare`: from a source of images to a prepared data set and a report."""
