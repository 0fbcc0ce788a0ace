"""Drop, cut and repair raw text by published rules whose every threshold is a value in a file."""
