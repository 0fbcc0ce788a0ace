"""Means of the parameters that a config can name: one file each."""
