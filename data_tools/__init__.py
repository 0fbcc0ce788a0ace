"""From raw text to packed sources: clean, deduplicate, select, and write; the `jaxpt-data` command."""
