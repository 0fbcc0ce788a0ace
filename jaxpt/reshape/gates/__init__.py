"""Gates by which masks are learned, one file each."""
