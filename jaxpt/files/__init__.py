"""Files on disk: their digests, locks, and directories that have their name only when they are whole."""
