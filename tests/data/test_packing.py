"""Packing loses no token, cuts only what it must, and comes back from disk as it went in."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpt.data import records
from jaxpt.data.build import Packing, build
from jaxpt.data.documents import document_id, held_out
from jaxpt.data.packed import DIGEST, PackedSource, PackedWriter
from jaxpt.data.packing import Document, best_fit, concat_and_split
from jaxpt.data.permutation import Permutation
from jaxpt.data.text_files import list_files, read_documents
from jaxpt.data.tokenize import Selection
from jaxpt.errors import JaxptError
from jaxpt.files.digests import canonical_digest
from jaxpt.tokenizers import train_sentencepiece
from tests.data.made import source

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=40)


def documents(lengths):
    start = np.cumsum([0, *lengths])
    return [
        Document(np.arange(a, a + n), np.arange(a, a + n) % 3 > 0, i) for i, (a, n) in enumerate(zip(start, lengths))
    ]


@settings(max_examples=80, deadline=None)
@given(LENGTHS, st.integers(2, 16), st.sampled_from([best_fit, concat_and_split]))
def test_every_token_is_in_exactly_one_row(lengths, length, packer):
    seen = []
    for row, numbers in packer(documents(lengths), length, -1):
        assert len(row.tokens) == length
        assert len(numbers) == len(row.starts) - 1
        seen += row.tokens[: row.starts[-1]].tolist()
        assert set(row.tokens[row.starts[-1] :].tolist()) <= {-1}
    assert sorted(seen) == list(range(sum(lengths)))


@settings(max_examples=80, deadline=None)
@given(LENGTHS, st.integers(2, 16))
def test_best_fit_cuts_a_document_only_where_it_is_longer_than_a_row(lengths, length):
    rows = [0] * len(lengths)
    for _, numbers in best_fit(documents(lengths), length, 0):
        for n in numbers:
            rows[n] += 1
    assert rows == [-(-n // length) for n in lengths]


@settings(max_examples=80, deadline=None)
@given(LENGTHS, st.integers(2, 17), st.sampled_from(["uint16", "uint32"]))
def test_a_batch_read_from_bytes_equals_loops_over_the_documents(lengths, length, dtype):
    packed = list(best_fit(documents(lengths), length, 0))
    batch = records.decode([records.encode(row, dtype) for row, _ in packed], length, dtype)
    for b, (row, _) in enumerate(packed):
        want = {k: np.zeros(length, np.float64) for k in batch}
        want["tokens"][:] = row.tokens
        for segment, (start, stop) in enumerate(zip(row.starts, row.starts[1:]), 1):
            for i in range(start, stop):
                want["segment_ids"][i], want["positions"][i] = segment, i - start
                if i + 1 < stop:
                    want["targets"][i], want["loss_weights"][i] = row.tokens[i + 1], row.mask[i + 1]
        for name, value in batch.items():
            np.testing.assert_array_equal(value[b], want[name], err_msg=name)


def test_rows_come_back_from_disk_in_any_order(tmp_path):
    made = source(tmp_path / "s", 100, tag=3)
    again = PackedSource.open(tmp_path / "s")
    assert again.fingerprint == made.fingerprint
    order = np.random.default_rng(0).permutation(100)
    got = again.read(order)["tokens"][:, 1]
    base = again.read(range(100))["tokens"][:, 1]
    np.testing.assert_array_equal(got, base[order])
    for row in (0, 36, 37, 99):  # on both sides of a shard's end
        assert again.row_documents(row) == [(3).to_bytes(8, "little") + int(base[row]).to_bytes(8, "little")]
    again.verify()


def test_permutations_are_bijections_that_keys_tell_apart():
    for n in (1, 2, 3, 10, 255, 256, 257, 5000):
        p = Permutation(n, "a")(np.arange(n))
        np.testing.assert_array_equal(np.sort(p), np.arange(n))
    assert not np.array_equal(Permutation(5000, "a")(np.arange(5000)), Permutation(5000, "b")(np.arange(5000)))
    with pytest.raises(IndexError):
        Permutation(10, "a")(np.array([10]))


def test_permuted_positions_look_independent_of_their_place():
    n = 4096
    p = Permutation(n, "key")(np.arange(n))
    # rank correlation of n independent draws has deviation 1/sqrt(n); 5 of them is one in two million
    assert abs(np.corrcoef(np.arange(n), p)[0, 1]) < 5 / np.sqrt(n)
    assert abs(np.corrcoef(p[:-1], p[1:])[0, 1]) < 5 / np.sqrt(n)


TEXTS = [f"document {i}: " + "word " * (i % 23) for i in range(60)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_sentencepiece(TEXTS * 5, tmp_path_factory.mktemp("t") / "tokenizer.model", 290)


def write(path, kind):
    rows = [{"text": t, "group": str(i // 10)} for i, t in enumerate(TEXTS)]
    lines = "".join(json.dumps(r) + "\n" for r in rows).encode()
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path / "d.parquet")
    elif kind == "gz":
        (path / "d.jsonl.gz").write_bytes(gzip.compress(lines))
    elif kind == "zst":
        (path / "d.jsonl.zst").write_bytes(zstandard.compress(lines))
    else:
        (path / "d.jsonl").write_bytes(lines)
    return path


def test_all_kinds_of_text_files_give_the_same_source(tmp_path, tokenizer):
    prints = set()
    for kind in ("plain", "gz", "zst", "parquet"):
        folder = tmp_path / kind
        folder.mkdir()
        made = build(str(write(folder, kind)), tmp_path / f"{kind}.packed", tokenizer, 64)
        prints.add(made.fingerprint)
        assert made.documents == len(TEXTS)
    assert len(prints) == 1


def test_text_survives_tokenizing_and_packing(tmp_path, tokenizer):
    made = build(str(write(tmp_path, "plain")), tmp_path / "p", tokenizer, 256, Packing(bos=True))
    found = {}
    for row in range(made.rows):
        batch = made.read([row])
        for segment, identity in enumerate(made.row_documents(row), 1):
            ids = batch["tokens"][0][batch["segment_ids"][0] == segment]
            assert ids[0] == tokenizer.bos_id
            assert ids[-1] == tokenizer.eos_id
            found[identity] = tokenizer.decode(ids[1:-1])
    assert found == {document_id(t): t for t in TEXTS}


def test_held_out_and_train_are_apart_and_groups_stay_together(tmp_path, tokenizer):
    path = str(write(tmp_path, "plain"))
    ids = {}
    for part in ("train", "held_out"):
        chosen = Selection(part, 0.4, "group")
        made = build(path, tmp_path / part, tokenizer, 64, Packing(selection=chosen))
        ids[part] = {made.column("document_id")[i].tobytes() for i in range(made.documents)}
    assert not ids["train"] & ids["held_out"]
    assert len(ids["train"]) + len(ids["held_out"]) == len(TEXTS)
    for i in range(0, 60, 10):
        group = {document_id(t) for t in TEXTS[i : i + 10]}
        assert group <= ids["train"] or group <= ids["held_out"]
    assert abs(np.mean([held_out(str(i), 0.3) for i in range(4000)]) - 0.3) < 0.03


def test_bad_input_is_named_and_leaves_nothing(tmp_path, tokenizer):
    bad = tmp_path / "bad.jsonl"
    cases = {
        '{"text": "b"\n': r"none of 1 records could be read; the first is .*bad.jsonl:1: not JSON",
        '{"txt": "a"}\n' * 3: r"none of 3 records .*bad.jsonl:1: lacks the field 'text'; it has txt",
        "[1]\n": "a list, not an object",
        '{"text": 3}\n': "is int, not text",
        "": "holds no text",
    }
    for content, message in cases.items():
        bad.write_text(content)
        with pytest.raises(JaxptError, match=message):
            build(str(bad), tmp_path / "out", tokenizer, 16)
        assert [p.name for p in tmp_path.iterdir()] == ["bad.jsonl"]
    with pytest.raises(JaxptError, match="no such file"):
        list_files(str(tmp_path / "none*"))
    with pytest.raises(JaxptError, match="of an unknown kind"):
        list_files(__file__)
    whole = gzip.compress(b'{"text": "a"}\n' * 1000)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(JaxptError, match=r"cut.jsonl.gz is truncated"):
        list(read_documents(str(tmp_path / "cut.jsonl.gz")))
    with pytest.raises(JaxptError, match="did you mean 'best_fit'"):
        build(str(bad), tmp_path / "out", tokenizer, 16, Packing(packer="bestfit"))


def test_damaged_or_half_written_sources_are_refused(tmp_path):
    made = source(tmp_path / "s", 50)
    with pytest.raises(JaxptError, match="exists; remove it"):
        source(tmp_path / "s", 50)
    shard = tmp_path / "s" / "rows-00000.array_record"
    good = shard.read_bytes()
    shard.write_bytes(good[:-10])
    with pytest.raises(JaxptError, match=r"rows-00000.array_record has [\d,]+ bytes, source.json says"):
        PackedSource.open(made.path)
    flipped = bytearray(good)
    flipped[1000] ^= 1  # inside the rows of the first shard
    shard.write_bytes(flipped)
    with pytest.raises(JaxptError, match="was changed since it was packed"):
        PackedSource.open(made.path).verify()
    shard.write_bytes(good)
    facts = json.loads((made.path / "source.json").read_text())
    (made.path / "source.json").write_text(json.dumps(sealed({**facts, "rows": 51})))
    with pytest.raises(JaxptError, match=r"holds 50 rows, source\.json says 51"):
        PackedSource.open(made.path)
    (made.path / "source.json").unlink()
    with pytest.raises(JaxptError, match="it was not packed to the end"):
        PackedSource.open(made.path)
    with pytest.raises(JaxptError, match="outside the vocabulary of 10"), PackedWriter(tmp_path / "x", 4, 10) as writer:
        writer.write(next(iter(best_fit([Document(np.array([1, 11]), np.ones(2, bool), 0)], 4, 0))))
    assert not (tmp_path / "x").exists()


def sealed(values):
    """What source.json would say with another content: with the digest of it."""
    facts = {key: value for key, value in values.items() if key != DIGEST}
    return {**facts, DIGEST: canonical_digest(facts)}


def test_a_shard_that_disagrees_with_its_count_is_named_when_it_is_read(tmp_path):
    made = source(tmp_path / "s", 50)
    facts = json.loads((made.path / "source.json").read_text())
    facts["files"][0]["records"], facts["files"][1]["records"] = 36, 14  # 37 and 13 were written
    (made.path / "source.json").write_text(json.dumps(sealed(facts)))
    moved = PackedSource.open(made.path)
    with pytest.raises(JaxptError, match=r"rows-00000\.array_record holds 37 records, source\.json says 36"):
        moved.read([3])
    with pytest.raises(IndexError, match="of 50"):
        made.read([50])
