"""What identifies a document, and which documents are held out."""

import hashlib

Fields = dict[str, object]  # a document as its file has it: text or messages under a name, and whatever else


def document_id(text: str) -> bytes:
    """Returns the document's id: the 128-bit BLAKE2b hash of its UTF-8 text (unpaired surrogates kept as they are)."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def held_out(key: bytes | str, share: float) -> bool:
    """Whether the document (or group) called `key` belongs to the held-out part.

    Args:
        key: a document id, or the value of a group field, so that all of a group falls on one side.
        share: expected share held out, 0 … 1.
    """
    key = key.encode() if isinstance(key, str) else key
    value = int.from_bytes(hashlib.blake2b(b"held out\0" + key, digest_size=8).digest(), "little")
    return value < share * 2**64
