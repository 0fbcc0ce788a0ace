"""Text as a source: packed once, found again by its content, never taken half-made."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time

import pytest

from jaxpt.data import fingerprints
from jaxpt.data.build import Packing, build
from jaxpt.data.cache import packed_on_first_use
from jaxpt.data.fingerprints import content_fingerprint
from jaxpt.errors import JaxptError
from jaxpt.tokenizers import load, train_sentencepiece

TEXTS = [f"document {i}: " + "word " * (i % 23) for i in range(60)]


def write(folder, texts=TEXTS, name="d.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return str(folder)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_sentencepiece(TEXTS * 5, tmp_path_factory.mktemp("t") / "tokenizer.model", 290)


def made(cache):
    return sorted(p.name for p in cache.iterdir() if not p.name.startswith(".") and p.is_dir())


def test_text_is_packed_once_and_equals_what_the_command_packs(tmp_path, tokenizer):
    text, cache = write(tmp_path / "text"), tmp_path / "cache"
    first = packed_on_first_use(text, 64, Packing(), tokenizer, cache)
    assert first.fingerprint == build(text, tmp_path / "packed", tokenizer, 64).fingerprint
    before = {p: p.stat().st_mtime_ns for p in first.path.iterdir()}
    again = packed_on_first_use(text, 64, Packing(), tokenizer, cache)
    assert again.path == first.path
    assert {p: p.stat().st_mtime_ns for p in again.path.iterdir()} == before


def test_the_key_is_content_tokenizer_length_and_options_and_nothing_else(tmp_path, tokenizer):
    text, cache = write(tmp_path / "text"), tmp_path / "cache"
    first = packed_on_first_use(text, 64, Packing(), tokenizer, cache)
    moved = shutil.copytree(text, tmp_path / "moved")
    assert packed_on_first_use(str(moved), 64, Packing(), tokenizer, cache).path == first.path
    other = train_sentencepiece(TEXTS * 5, tmp_path / "o" / "tokenizer.model", 300)
    edited = write(tmp_path / "edited", [*TEXTS[:-1], "another end"])
    reordered = write(tmp_path / "reordered", TEXTS[::-1])
    variants = [(text, 32, Packing(), tokenizer), (text, 64, Packing(packer="concat"), tokenizer)]
    variants += [
        (text, 64, Packing(), other),
        (edited, 64, Packing(), tokenizer),
        (reordered, 64, Packing(), tokenizer),
    ]
    paths = {packed_on_first_use(*v, cache).path for v in variants}
    assert len(paths | {first.path}) == 6


def test_a_file_is_hashed_again_only_when_it_changed(tmp_path, monkeypatch):
    text, memo = write(tmp_path / "text"), tmp_path / "memo.json"
    file = f"{text}/d.jsonl"
    os.utime(file, (1, 1))
    opened = []
    real = fingerprints._digest
    monkeypatch.setattr(fingerprints, "_digest", lambda f, known: opened.append(known) or real(f, known))
    first = content_fingerprint([file], memo)
    entry = json.loads(memo.read_text())[file]
    assert content_fingerprint([file], memo) == first
    assert opened == [None, entry]  # the second call had the first one's hash at hand
    write(tmp_path / "text", ["changed"])
    assert content_fingerprint([file], memo) != first
    memo.write_text("{broken")
    assert content_fingerprint([file], memo) != first


def test_a_file_that_was_just_written_is_not_remembered(tmp_path):
    text, memo = write(tmp_path / "text"), tmp_path / "memo.json"
    file = f"{text}/d.jsonl"
    content_fingerprint([file], memo)
    assert not memo.exists()  # the same size at the same tick would go unseen


def _slowly(text, cache, model, ready):
    """Packs, and stops for good after some rows: what kill -9 meets."""
    from jaxpt.data import packed

    write_row, rows = packed.PackedWriter.write, []

    def slow(self, row):
        rows.append(row)
        if len(rows) == 3:
            ready.set()
            time.sleep(600)
        write_row(self, row)

    packed.PackedWriter.write = slow
    packed_on_first_use(text, 64, Packing(), load(model), cache)


def half_way(text, cache, tokenizer):
    """A process that has begun to pack and stays there."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_slowly, args=(text, cache, str(tokenizer.files[0]), ready))
    process.start()
    assert ready.wait(600)
    return process


def test_a_packing_that_is_killed_leaves_nothing_that_is_taken_for_a_source(tmp_path, tokenizer):
    text, cache = write(tmp_path / "text"), tmp_path / "cache"
    process = half_way(text, cache, tokenizer)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert made(cache) == []
    assert list(cache.glob(".*.partial-*"))  # it was indeed half-way
    source = packed_on_first_use(text, 64, Packing(), tokenizer, cache)
    assert source.fingerprint == build(text, tmp_path / "packed", tokenizer, 64).fingerprint
    assert not list(cache.glob(".*.partial-*"))


def _pack(text, cache, model, answers):
    source = packed_on_first_use(text, 64, Packing(), load(model), cache)
    answers.put((source.fingerprint, source.path.stat().st_ino))


def test_processes_that_need_one_source_at_once_pack_it_once(tmp_path, tokenizer):
    text, cache = write(tmp_path / "text", TEXTS * 20), tmp_path / "cache"
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    args = (text, cache, str(tokenizer.files[0]), answers)
    processes = [context.Process(target=_pack, args=args) for _ in range(3)]
    for p in processes:
        p.start()
    got = {answers.get(timeout=600) for _ in processes}
    for p in processes:
        p.join()
    assert len(got) == 1
    assert len(made(cache)) == 1


def test_a_process_waits_for_the_one_that_packs_and_says_for_whom(tmp_path, tokenizer, capsys):
    text, cache = write(tmp_path / "text"), tmp_path / "cache"
    process = half_way(text, cache, tokenizer)
    got = []
    thread = threading.Thread(target=lambda: got.append(packed_on_first_use(text, 64, Packing(), tokenizer, cache)))
    thread.start()
    time.sleep(1.5)
    assert not got
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    thread.join(600)
    assert got[0].fingerprint == build(text, tmp_path / "packed", tokenizer, 64).fingerprint
    assert capsys.readouterr().out.count(f"waiting for process {process.pid} on ") == 1
    assert len(made(cache)) == 1


def test_bad_text_is_named_and_leaves_no_source(tmp_path, tokenizer):
    text, cache = write(tmp_path / "text"), tmp_path / "cache"
    with (tmp_path / "text" / "d.jsonl").open("a") as f:
        f.write("not json\n" * 40)
    with pytest.raises(
        JaxptError, match=r"could not be read .quarantine_limit=0.1; the first is .*d\.jsonl:61: not JSON"
    ):
        packed_on_first_use(text, 64, Packing(), tokenizer, cache)
    assert made(cache) == []
