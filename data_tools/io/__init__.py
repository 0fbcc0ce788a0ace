"""Files in and out: readers, writers, archives, WARC and HTML, storage near and far."""
