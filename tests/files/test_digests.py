"""Digests of small files: checked when they are read, replaced so that nobody sees a mismatch."""

import json
import os
import threading

import pytest

from jaxpt.errors import JaxptError
from jaxpt.files.digests import open_digests, read_file, read_json, write_digests, write_files
from tests.files.flips import damages, outcomes


@pytest.fixture
def folder(tmp_path):
    write_files(tmp_path / "f", {"model.json": b'{"format": 2}', "tokenizer/a.txt": b"words"})
    return tmp_path / "f"


def test_what_was_written_is_read(folder):
    assert read_file(folder, "tokenizer/a.txt") == b"words"
    assert read_json(folder, "model.json", dict) == {"format": 2}
    write_files(folder, {"tokenizer/a.txt": b"other"})
    assert read_file(folder, "tokenizer/a.txt") == b"other"
    assert sorted(p.name for p in folder.rglob("*")) == ["a.txt", "digests.json", "model.json", "tokenizer"]


def test_each_kind_of_damage_says_what_it_is(folder):
    file = folder / "tokenizer" / "a.txt"
    file.write_bytes(b"wordt")
    with pytest.raises(JaxptError, match=r"a\.txt is damaged: it is not what digests\.json says; restore it from a"):
        read_file(folder, "tokenizer/a.txt")
    file.unlink()
    with pytest.raises(JaxptError, match=r"a\.txt is missing, digests\.json lists it"):
        read_file(folder, "tokenizer/a.txt")
    with pytest.raises(JaxptError, match=r"a\.txt is missing"):
        open_digests(folder).check("tokenizer")
    file.mkdir()
    with pytest.raises(JaxptError, match=r"a\.txt cannot be read \(Is a directory\); make it readable"):
        read_file(folder, "tokenizer/a.txt")
    (folder / "b.txt").write_bytes(b"b")
    with pytest.raises(JaxptError, match=r"digests\.json does not list b\.txt"):
        read_file(folder, "b.txt")
    (folder / "digests.json").write_text('{"format": 2, "files": {}}')
    with pytest.raises(JaxptError, match=r"digests\.json is of a format that this jaxpt does not read, or damaged"):
        open_digests(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_not_called_damaged(folder):
    (folder / "model.json").chmod(0)
    with pytest.raises(JaxptError, match=r"model\.json cannot be read \(Permission denied\); make it readable"):
        read_file(folder, "model.json")


def test_an_error_of_the_storage_is_not_called_damage(folder, monkeypatch):
    def stale(self):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr("pathlib.Path.read_bytes", stale)
    with pytest.raises(JaxptError, match=r"cannot be read \(Stale file handle\); make it readable and try again"):
        read_file(folder, "model.json")


def test_every_damage_to_every_file_is_noticed(folder):
    def everything():
        opened = open_digests(folder)
        opened.check("tokenizer")
        return [read_file(folder, name) for name in ("model.json", "tokenizer/a.txt")]

    for name in ("model.json", "tokenizer/a.txt", "digests.json"):
        counts = outcomes(folder / name, everything, 1)
        assert counts.keys() <= {"noticed", "harmless"}, counts
        assert not counts["harmless"] or name == "digests.json"  # white space between its entries


def test_the_damages_that_are_tried_are_all_different():  # and none leaves the file as it is
    tried = [content for _, content in damages(b"0123456789", 1)]
    assert len(set(tried)) == len(tried) == 15
    assert b"0123456789" not in tried


def test_a_reader_sees_the_content_before_or_after_but_never_damage(folder):
    """Beside a writer that replaces them all the time."""
    stop = threading.Event()

    def write():
        n = 0
        while not stop.is_set():
            n += 1
            write_files(folder, {"model.json": json.dumps({"format": 2, "n": n}).encode()})

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while len(seen) < 400 or (len(set(seen)) < 2 and len(seen) < 40_000):  # where the writer is slow, until it wrote
        seen.append(read_json(folder, "model.json", dict).get("n", 0))
    stop.set()
    writer.join()
    assert seen == sorted(seen)
    assert len(set(seen)) > 1


def test_digests_that_were_read_earlier_no_longer_hold(folder):  # the proof above can fail
    before = open_digests(folder)
    write_files(folder, {"model.json": b'{"format": 2, "n": 1}'})
    with pytest.raises(JaxptError, match="is damaged"):
        before.read("model.json")


def test_a_folder_that_nobody_reads_yet_gets_its_digests_at_once(tmp_path):
    (tmp_path / "model.json").write_text('{"format": 2}')
    write_digests(tmp_path, ["model.json"])
    assert read_file(tmp_path, "model.json") == b'{"format": 2}'
