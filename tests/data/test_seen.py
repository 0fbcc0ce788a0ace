"""Documents that were seen are left out of the same text packed at another length, in another order, or elsewhere."""

import json
import shutil

import numpy as np
import pytest

from jaxpt.data import Loader, StageData
from jaxpt.data.build import Packing, build
from jaxpt.data.ledger import Ledger
from jaxpt.data.order import SourceOrder, order_key
from jaxpt.data.seen import documents_used, in_common, rows_with, seen_documents
from jaxpt.data.tokenize import Selection
from jaxpt.errors import JaxptError
from jaxpt.tokenizers import load, train_sentencepiece

TEXTS = [f"document {i}: " + "word and some " * (i % 29) for i in range(300)]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The same documents in rows of 64 (documents cut across rows) and of 256 tokens, and other documents."""
    folder = tmp_path_factory.mktemp("seen")
    tokenizer = train_sentencepiece(TEXTS * 2, folder / "tokenizer.model", 300)
    (folder / "d.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    (folder / "e.jsonl").write_text("".join(json.dumps({"text": f"another {t}"}) + "\n" for t in TEXTS))
    concat = Packing(packer="concat")
    return {
        "short": build(str(folder / "d.jsonl"), folder / "short", tokenizer, 64, concat),
        "long": build(str(folder / "d.jsonl"), folder / "long", tokenizer, 256, concat),
        "other": build(str(folder / "e.jsonl"), folder / "other", tokenizer, 256, concat),
    }


def ids_of(source, rows):
    """By a loop, from the rows themselves."""
    return {d for row in rows for d in source.row_documents(int(row))}


@pytest.fixture(scope="module")
def before(packed):
    """The ledger of a run over the short rows, and the documents that its batches delivered."""
    short = packed["short"]
    loader = Loader({"s": short}, [StageData(0, 6, 5, 64, {"s": 1})], order_seed={"s": 4})
    delivered = ids_of(short, np.concatenate([loader.batch(step)["row_id"] for step in range(6)]))
    return loader.ledger(6), delivered


def left_out(ledger, sources, order_seed=0):
    keys = {name: order_key(source, order_seed) for name, source in sources.items()}
    return seen_documents(ledger, sources, keys)


def test_no_document_of_a_run_comes_again_in_longer_rows(packed, before):
    ledger, delivered = before
    sources = {"l": packed["long"], "o": packed["other"]}
    seen = left_out(ledger, sources)
    assert {d.tobytes() for d in seen["l"]} == delivered
    stages = [StageData(0, 4, 4, 256, {"l": 0.5, "o": 0.5})]
    loader = Loader(sources, stages, used=ledger, seen_documents=seen)
    for step in range(4):
        batch = loader.batch(step)
        for i, source in enumerate(sources.values()):
            assert not ids_of(source, batch["row_id"][batch["source_id"] == i]) & delivered
    long, other = loader.orders
    assert long.left_out == sum(bool(ids_of(long.source, [r]) & delivered) for r in range(long.source.rows))
    assert (long.rows, other.left_out) == (long.source.rows - long.left_out, 0)
    assert 0 < long.rows < long.source.rows


def test_without_the_ids_documents_would_come_again(packed, before):  # the proof above can fail
    ledger, delivered = before
    order = SourceOrder(packed["long"], used=ledger)
    assert ids_of(packed["long"], order.take(np.arange(order.rows))) & delivered


def test_the_same_source_in_another_order_is_matched_by_its_documents_too(packed, before):
    ledger, delivered = before
    sources = {"s": packed["short"]}
    assert not len(left_out(ledger, sources, order_seed=4)["s"])  # its rows say it all
    seen = left_out(ledger, sources, order_seed=5)["s"]
    assert {d.tobytes() for d in seen} == delivered
    order = SourceOrder(packed["short"], order_seed=5, used=ledger, seen_documents=seen)
    assert not ids_of(packed["short"], order.take(np.arange(order.rows))) & delivered


def test_ids_that_agree_in_one_half_only_are_different_documents(packed):
    source = packed["long"]
    ids = np.array(source.column("document_id")[:3])
    twisted = ids + np.array([0, 1], np.uint64)
    assert not rows_with(source, twisted).any()
    assert rows_with(source, ids).any()
    assert rows_with(source, np.zeros((0, 2), np.uint64)) is None


def test_documents_of_many_rows_are_found_block_by_block(packed, monkeypatch):
    source = packed["short"]
    order = SourceOrder(source)
    entries = order.used(source.rows - 3)
    whole = documents_used(source, entries)
    monkeypatch.setattr("jaxpt.data.seen.BLOCK", 7)
    np.testing.assert_array_equal(documents_used(source, entries), whole)
    assert {d.tobytes() for d in whole} == ids_of(source, order.take(np.arange(source.rows - 3)))


def test_a_source_that_is_gone_or_changed_is_named_with_the_way_out(packed, before, tmp_path):
    ledger, _ = before
    gone = Ledger.from_json([{**e, "path": str(tmp_path / "gone")} for e in ledger.to_json()])
    with pytest.raises(JaxptError, match=r"used source s \(.*gone\), which cannot be read.*leave_out_seen=False"):
        left_out(gone, {"l": packed["long"]})
    assert not len(left_out(gone, {"s": packed["short"]}, order_seed=4)["s"])  # it is here under another path
    shutil.copytree(packed["other"].path, tmp_path / "gone")
    with pytest.raises(JaxptError, match="which has changed since"):
        left_out(gone, {"l": packed["long"]})


def test_text_packed_at_two_lengths_for_one_run_is_noticed_unless_each_holds_a_part_of_it(packed, tmp_path):
    assert in_common(packed) == [("short", "long", len(TEXTS))]
    folder = packed["short"].path.parent
    tokenizer = load(folder / "tokenizer.model")
    apart = {}
    for part, length in (("train", 64), ("held_out", 256)):
        packing = Packing(selection=Selection(part, share=0.3))
        apart[part] = build(str(folder / "d.jsonl"), tmp_path / part, tokenizer, length, packing)
    assert in_common(apart) == []
    assert sum(s.documents for s in apart.values()) == len(TEXTS)
    assert apart["held_out"].documents > 50
