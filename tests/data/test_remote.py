"""Sources on an object store (fsspec's memory:// stands for gs://) give what the same sources on disk give."""

import json

import fsspec
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpt.data import Loader, PackedSource, StageData
from jaxpt.data.build import Packing
from jaxpt.data.cache import packed_on_first_use
from jaxpt.data.remote import BLOCK, RangedReader
from jaxpt.errors import JaxptError
from jaxpt.tokenizers import train_sentencepiece
from tests.data.made import delivered, source

STORE = fsspec.filesystem("memory")


def upload(folder, address):
    """Copies a directory to the store; returns its address."""
    for file in folder.iterdir():
        STORE.pipe_file(f"{address.removeprefix('memory:/')}/{file.name}", file.read_bytes())
    return address


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same source twice: on disk (several shards of several Riegeli blocks), and on the store."""
    folder = tmp_path_factory.mktemp("remote")
    here = source(folder / "a", 150, length=2048)
    there = PackedSource.open(upload(folder / "a", "memory://bucket/packed/a"), folder / "cache")
    return here, there


def test_a_source_on_a_store_is_the_source_on_disk(pair):
    here, there = pair
    assert (there.name, there.fingerprint, there.rows) == ("a", here.fingerprint, 150)
    rows = np.random.default_rng(0).permutation(150)
    assert there.records(rows) == here.records(rows)
    assert [there.row_documents(r) for r in (0, 149)] == [here.row_documents(r) for r in (0, 149)]
    there.verify()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([1, 23, 24, 40, 4096, BLOCK - 90, BLOCK, 3 * BLOCK]), min_size=1, max_size=12))
def test_records_of_any_length_at_any_place_in_a_block_are_read_by_ranges(tmp_path_factory, lengths):
    file = tmp_path_factory.mktemp("any") / "x.array_record"
    rng = np.random.default_rng(len(lengths))
    wanted = [rng.bytes(n) for n in lengths]
    writer = ArrayRecordWriter(str(file), "group_size:1,uncompressed")
    for record in wanted:
        writer.write(record)
    writer.close()
    STORE.pipe_file("/any/x", file.read_bytes())
    reader = RangedReader("memory://any/x")
    assert reader.num_records() == ArrayRecordReader(str(file)).num_records() == len(wanted)
    order = rng.permutation(len(wanted)).tolist()
    assert reader.read(order) == [wanted[i] for i in order]


@pytest.mark.parametrize("threads", [None, 1, 5])
def test_batches_depend_neither_on_the_place_nor_on_the_threads_that_read(pair, threads):
    here, there = pair
    stages = [StageData(0, 9, 5, 2048, {"a": 1}), StageData(9, 12, 7, 2048, {"a": 1})]
    wanted = [Loader({"a": here}, stages).batch(step) for step in range(21)]
    for source_ in (here, there):
        got = list(Loader({"a": source_}, stages).iterate(2, threads=threads))
        assert [step for step, _ in got] == list(range(2, 21))
        for step, batch in got:
            assert batch.keys() == wanted[step].keys()
            for name, value in batch.items():
                np.testing.assert_array_equal(value, wanted[step][name], err_msg=name)


def test_a_run_that_began_on_disk_goes_on_from_a_store(pair):
    here, there = pair
    stages = [StageData(0, 10, 6, 2048, {"a": 1})]
    first = Loader({"a": here}, stages)
    taken = {d for step in range(10) for d in delivered(first.batch(step))}
    second = Loader({"a": there}, stages, used=first.ledger(10))
    assert not taken & {d for step in range(10) for d in delivered(second.batch(step))}


def test_what_is_wrong_with_a_remote_source_is_said_by_its_address(pair, tmp_path):
    here, _ = pair
    with pytest.raises(JaxptError, match=r"memory://bucket/nothing is not a packed source \(it does not exist"):
        PackedSource.open("memory://bucket/nothing")
    with pytest.raises(JaxptError, match=r"nosuch://x cannot be opened: .*install"):
        PackedSource.open("nosuch://x")
    bad = upload(here.path, "memory://bucket/short")
    shard = here.facts["files"][0]["name"]
    whole = (here.path / shard).read_bytes()
    STORE.pipe_file(f"/bucket/short/{shard}", whole[:-1])
    with pytest.raises(JaxptError, match=rf"memory://bucket/short/{shard} has .* bytes, source.json says"):
        PackedSource.open(bad, tmp_path)
    STORE.pipe_file(f"/bucket/short/{shard}", whole[:-BLOCK] + bytes(BLOCK))
    with pytest.raises(JaxptError, match=rf"memory://bucket/short/{shard} cannot be read"):
        PackedSource.open(bad, tmp_path).records([0])
    column = (here.path / "row_fill.npy").read_bytes()
    STORE.pipe_file("/bucket/short/row_fill.npy", column[:-1] + b"x")
    with pytest.raises(JaxptError, match=r"row_fill\.npy is not the file that source.json lists"):
        PackedSource.open(bad, tmp_path / "other")
    assert not list((tmp_path / "other").rglob("*.npy"))


def test_text_on_a_store_is_packed_on_first_use(tmp_path):
    texts = [f"{a} and {b} make {a + b}" for a in range(12) for b in range(12)]
    tokenizer = train_sentencepiece(texts, tmp_path / "t.model", 290)
    lines = "".join(json.dumps({"text": t}) + "\n" for t in texts).encode()
    (tmp_path / "t.jsonl").write_bytes(lines)
    STORE.pipe_file("/bucket/text/t.jsonl", lines)
    here = packed_on_first_use(str(tmp_path / "t.jsonl"), 32, Packing(), tokenizer, tmp_path / "here")
    there = packed_on_first_use("memory://bucket/text", 32, Packing(), tokenizer, tmp_path / "there")
    assert there.fingerprint == here.fingerprint
