"""Raw text to packed sources: clean, deduplicate, classify, tokenize, pack; the command `jaxpt-data`."""
