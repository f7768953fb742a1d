"""Data that does not fit on the disk, read as it is needed."""
