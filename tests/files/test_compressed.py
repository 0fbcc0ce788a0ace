"""Archives are read whole or not at all: a cut, a flipped bit or a foreign tail is an error, never a shorter text."""

import gzip
import io

import pytest
import zstandard

from jaxpt.files.compressed import DAMAGED, decompressed

DATA = b"".join(b'{"text": "line %d"}\n' % i for i in range(20_000))
PACK = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor(write_checksum=True).compress}


def content(data, name):
    return decompressed(io.BytesIO(data), name).read()


@pytest.mark.parametrize("name", PACK)
def test_members_are_joined_and_read_by_lines(name):
    packed = PACK[name](DATA)
    assert content(packed, name) == DATA
    assert content(packed + packed, name) == DATA + DATA
    assert list(decompressed(io.BytesIO(packed), name)) == DATA.splitlines(keepends=True)
    assert content(b"", name) == b""
    assert content(DATA, "plain") == DATA


@pytest.mark.parametrize("name", PACK)
def test_damage_is_an_error_wherever_it_lies(name):
    packed = PACK[name](DATA)
    for cut in (1, 3, 8, len(packed) // 2, len(packed) - 3):
        for data in (packed[:-cut], packed + packed[:-cut]):  # also in a later member
            with pytest.raises(DAMAGED):
                content(data, name)
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 4
    for data in (bytes(flipped), packed + b"something else", DATA):
        with pytest.raises(DAMAGED):
            content(data, name)


def test_a_disk_that_fails_is_not_taken_for_damage():
    class Failing(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error") as failed:
        decompressed(io.BufferedReader(Failing()), "a.zst").read()
    assert failed.value.errno == 5
