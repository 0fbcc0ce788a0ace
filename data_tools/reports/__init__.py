"""Reports of what a pipeline did."""
