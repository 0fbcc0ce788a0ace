"""Whatever is damaged in a packed source or beside it is noticed before a row of it is used, or does not matter."""

import json
import shutil

import fsspec
import numpy as np
import pytest

from jaxpt.data import fingerprints, packed
from jaxpt.data.fingerprints import content_fingerprint
from jaxpt.data.packed import COLUMNS, DIGEST, PackedSource
from jaxpt.errors import JaxptError
from jaxpt.files import digests
from tests.data.made import source
from tests.files.flips import assert_never_silent, outcomes

STORE = fsspec.filesystem("memory")


@pytest.fixture
def made(tmp_path):
    return source(tmp_path / "s", 50).path


def everything(path, cache=None):
    """What a run reads of a source, besides its rows."""
    packed._intact.clear()  # as in another process
    found = PackedSource.open(path, cache)
    return found.fingerprint, found.facts, {name: found.column(name).tobytes() for name in COLUMNS}


def test_damage_to_source_json_is_noticed_or_harmless(made):
    assert_never_silent(outcomes(made / "source.json", lambda: everything(made), 7))


@pytest.mark.parametrize("name", COLUMNS)
def test_damage_to_a_column_is_noticed(made, name):
    file = made / f"{name}.npy"
    counts = outcomes(file, lambda: everything(made), max(1, file.stat().st_size // 40))
    assert_never_silent(counts)
    assert not counts["harmless"]


def test_damage_to_the_rows_is_noticed_by_their_own_checksums(made):
    """ArrayRecord stores a hash of each chunk's header and data; what is left over is padding between blocks."""
    shard = sorted(made.glob("*.array_record"))[0]

    def rows():
        found = PackedSource.open(made)
        return found.records(range(found.rows))

    counts = outcomes(shard, rows, max(1, shard.stat().st_size // 400))
    assert_never_silent(counts)


@pytest.mark.parametrize(
    ("key", "value"),
    [("vocab_size", 70_001), ("tokens", 399), ("tokenizer_fingerprint", "nade"), ("options", {"packer": "concat"})],
)
def test_a_changed_fact_is_refused(made, key, value):
    facts = json.loads((made / "source.json").read_text())
    (made / "source.json").write_text(json.dumps({**facts, key: value}))
    with pytest.raises(JaxptError, match=r"source\.json is damaged: its content is not what fingerprint says; pack"):
        PackedSource.open(made)


def before_there_were_digests(path):
    """Makes a source what af7ccdc wrote."""
    facts = json.loads((path / "source.json").read_text())
    del facts[DIGEST]
    (path / "source.json").write_text(json.dumps(facts, indent=1))


def test_a_source_from_before_the_digest_is_the_same_source_and_said_once(made, monkeypatch, capsys):
    whole = everything(made)
    before_there_were_digests(made)
    monkeypatch.setattr(digests, "_reported", False)
    assert everything(made) == whole == everything(made)  # a run goes on with it: the fingerprint is the same
    assert capsys.readouterr().err.count("carry no digests") == 1


def test_without_the_digest_damage_is_silent(made):  # the proofs above can fail
    before_there_were_digests(made)
    counts = outcomes(made / "source.json", lambda: everything(made), 3)
    assert any(what.endswith("silent") for what in counts)


def test_a_column_is_hashed_once_in_a_process_and_again_when_it_changes(made, monkeypatch):
    packed._intact.clear()
    hashed = []
    sha256 = packed.sha256
    monkeypatch.setattr(packed, "sha256", lambda file: (hashed.append(file.name), sha256(file))[1])
    PackedSource.open(made)
    PackedSource.open(made).column("document_id")
    assert hashed == ["row_fill.npy", "document_id.npy"]
    data = bytearray((made / "row_fill.npy").read_bytes())
    data[-1] ^= 1
    (made / "row_fill.npy").write_bytes(data)
    with pytest.raises(
        JaxptError, match=r"row_fill\.npy is damaged: it is not what source\.json says; pack the source"
    ):
        PackedSource.open(made)


def test_the_copy_of_a_remote_column_is_checked_too(made, tmp_path):
    for file in made.iterdir():
        STORE.pipe_file(f"/damage/s/{file.name}", file.read_bytes())
    whole = everything("memory://damage/s", tmp_path / "cache")
    assert whole == everything(made)
    (copy,) = (tmp_path / "cache" / "copies").glob("*-document_id.npy")
    assert_never_silent(outcomes(copy, lambda: everything("memory://damage/s", tmp_path / "cache"), 97))
    data = bytearray(copy.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    with pytest.raises(JaxptError, match=r"document_id\.npy is damaged: .*; remove it, and it is copied again"):
        everything("memory://damage/s", tmp_path / "cache")


def test_a_damaged_memory_of_fingerprints_is_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "SETTLED", -1.0)
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    files, memo = [str(tmp_path / "a.jsonl")], tmp_path / "files.json"
    right = content_fingerprint(files, memo)
    good = memo.read_bytes()
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1
        memo.write_bytes(bad)
        assert content_fingerprint(files, memo) == right
    for content in (b"", b"[]", b'{"a": []}', good[: len(good) // 2]):
        memo.write_bytes(content)
        assert content_fingerprint(files, memo) == right
    shutil.rmtree(tmp_path / "gone", ignore_errors=True)


def test_the_rows_of_a_damaged_remote_shard_are_not_checked_but_by_verify(made, tmp_path):
    """A range of bytes has no checksum of ours: stores have their own."""
    for file in made.iterdir():
        STORE.pipe_file(f"/rows/s/{file.name}", file.read_bytes())
    name = "rows-00000.array_record"
    data = bytearray((made / name).read_bytes())
    at = data.find(PackedSource.open(made).records([3])[0])
    data[at] ^= 1
    STORE.pipe_file(f"/rows/s/{name}", bytes(data))
    found = PackedSource.open("memory://rows/s", tmp_path / "cache")
    assert not np.array_equal(found.read([3])["tokens"], PackedSource.open(made).read([3])["tokens"])
    with pytest.raises(JaxptError, match="was changed since it was packed"):
        found.verify()
