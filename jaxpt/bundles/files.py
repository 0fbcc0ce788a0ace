"""Digests of files as they lie on disk."""

import hashlib
from pathlib import Path


def sha256(file: Path) -> str:
    """Returns the SHA-256 of a file, hex, read in blocks."""
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
