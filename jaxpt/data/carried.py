"""The tokenizer that a packed source or a folder of tokenized documents carries in `tokenizer/`."""

import os
import shutil
from pathlib import Path

from jaxpt import tokenizers
from jaxpt.data.remote import file_system, is_remote
from jaxpt.errors import JaxptError
from jaxpt.files.digests import NAME
from jaxpt.tokenizers.fingerprints import accepts
from jaxpt.tokenizers.interface import Tokenizer


def carried_tokenizer(path: str | Path, fingerprint: str, cache: Path) -> Tokenizer | None:
    """Returns the tokenizer that lies in `path`; None where none does, as in what earlier versions wrote.

    Args:
        path: a folder of this machine, or an address, from which the files are copied into `cache` once.
        fingerprint: of the tokenizer that made the ids.
        cache: a folder, made where absent.

    Raises:
        JaxptError: the files are damaged, or those of another tokenizer.
    """
    folder = _copied(str(path), fingerprint, cache) if is_remote(path) else Path(path)
    if folder is None or not (folder / "tokenizer").is_dir():
        return None
    tokenizer = tokenizers.load(folder / "tokenizer")
    if not accepts(tokenizer, fingerprint, str(path)):
        raise JaxptError(
            f"{path}/tokenizer is tokenizer {tokenizer.fingerprint[:12]}, the tokens were made with "
            f"{fingerprint[:12]}; put that one there, or make the folder again"
        )
    return tokenizer


def _copied(address: str, fingerprint: str, cache: Path) -> Path | None:
    """A folder of this machine with the tokenizer of the one at `address` and the digests of its files."""
    fs, inner = file_system(address)
    if not fs.isdir(f"{inner}/tokenizer"):
        return None
    place = cache / "copies" / f"tokenizer-{fingerprint[:32]}"
    if not place.exists():
        partial = place.with_name(f".{place.name}.{os.getpid()}")
        (partial / "tokenizer").mkdir(parents=True, exist_ok=True)
        for file in fs.ls(f"{inner}/tokenizer", detail=False):
            name = str(file).rstrip("/").rsplit("/", 1)[-1]
            (partial / "tokenizer" / name).write_bytes(fs.cat_file(file))
        if fs.isfile(f"{inner}/{NAME}"):
            (partial / NAME).write_bytes(fs.cat_file(f"{inner}/{NAME}"))
        try:
            os.replace(partial, place)
        except OSError:  # another process was faster
            shutil.rmtree(partial, ignore_errors=True)
    return place
