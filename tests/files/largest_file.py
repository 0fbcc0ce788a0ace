"""A disk that fills up, for this process and those that it starts."""

import contextlib
import os
import resource
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def largest_file(most: int | None) -> Iterator[None]:
    """No file grows beyond `most` bytes (None: as before): as a full disk, but for the error's name.

    Python writes what it compiled without a look at how much was taken: a later import would find half a file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    written, variable = sys.dont_write_bytecode, os.environ.get("PYTHONDONTWRITEBYTECODE", "")
    sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if most is None else most, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = written, variable
