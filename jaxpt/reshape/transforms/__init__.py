"""The transforms that a config can name, one per file; the file's name is the transform's."""
