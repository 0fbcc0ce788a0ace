"""Downstream tasks through the library `lm_eval`, with jaxpt's own engine and tasks that are read from local files."""
