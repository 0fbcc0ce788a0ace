"""Records that grow when they are read are left out with their place, in bounded memory; all others are packed."""

import gzip
import hashlib
import io
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_tools.__main__ import main
from data_tools.io.readers import BytesRead, Problem, read, read_batches
from jaxpt.data import parquet_pages
from jaxpt.data.build import Packing, build
from jaxpt.data.caps import CAPS, RAW, Caps
from jaxpt.data.parquet_pages import bounded_batches, page_sizes
from jaxpt.data.text_files import read_documents, read_line
from jaxpt.errors import JaxptError
from jaxpt.tokenizers import train_sentencepiece

html = pytest.importorskip("data_tools.io.html", reason="resiliparse is not installed (jaxpt[data])")
main_text, nesting, NESTING = html.main_text, html.nesting, CAPS.deepest_html

GOOD = [{"text": f"a usual document {i}"} for i in range(4)]
LONG = json.dumps({"text": "x" * 5000})
DEEP = '{"text": "deep", "more": ' + "[" * 900 + "]" * 900 + "}"
WITHOUT_END = '{"text": "deep", "more": ' + "[" * 100_000
HALF = r'{"text": "half \ud83d of a pair", "source": "\udc00"}'


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_sentencepiece([json.dumps(GOOD)] * 40, tmp_path_factory.mktemp("t") / "tokenizer.model", 300)


def write(folder, name, odd):
    lines = "\n".join([json.dumps(GOOD[0]), *odd, *map(json.dumps, GOOD[1:])]).encode() + b"\n"
    data = {"gz": gzip.compress, "st": zstandard.ZstdCompressor().compress}.get(name[-2:], bytes)(lines)
    (folder / name).write_bytes(data)
    return str(folder / name)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_what_is_too_long_or_too_deep_is_left_out_with_its_line_and_the_rest_packed(tmp_path, tokenizer, name, capsys):
    file = write(tmp_path, name, [LONG, DEEP, WITHOUT_END, HALF])
    made = build(file, tmp_path / "p", tokenizer, 64, Packing(largest_record=4000))
    assert made.documents == len(GOOD) + 1  # half a pair is repaired
    aside = [json.loads(line) for line in (tmp_path / "p/quarantine.jsonl").read_text().splitlines()]
    assert [(a["place"], a["reason"]) for a in aside] == [
        (f"{file}:2", "line longer than 4,000 bytes"),
        (f"{file}:3", "JSON nested more than 200 deep"),
        (f"{file}:4", "line longer than 4,000 bytes"),
    ]
    assert made.facts["options"]["quarantined"] == 3
    assert made.facts["options"]["largest_record"] == 4000
    assert f"{file}:2: line longer than 4,000 bytes" in capsys.readouterr().err


def test_a_line_without_end_takes_no_memory():
    class Endless(io.RawIOBase):
        left = 100 << 20

        def readable(self):
            return True

        def readinto(self, buffer):
            size = min(len(buffer), self.left)
            buffer[:size] = b"x" * size
            self.left -= size
            return size

    tracemalloc.start()
    line, whole = read_line(io.BufferedReader(Endless()), 1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(line), whole) == (1 << 20, False)
    assert peak < 8 << 20


def test_a_line_of_just_the_length_is_read():
    assert read_line(io.BytesIO(b"12345\nx\n"), 5) == (b"12345\n", True)
    assert read_line(io.BytesIO(b"12345"), 5) == (b"12345", True)
    stream = io.BytesIO(b"123456\nx\n")
    assert read_line(stream, 5) == (b"12345", False)
    assert read_line(stream, 5) == (b"x\n", True)


def parquet(folder, texts, **how):
    table = pa.table({"text": pa.array(texts, pa.large_string()), "n": range(len(texts))})
    how = {"compression": "zstd", "write_statistics": False, "dictionary_pagesize_limit": 1 << 30, **how}
    pq.write_table(table, folder / "a.parquet", **how)
    return str(folder / "a.parquet")


def test_a_page_of_parquet_larger_than_is_read_is_left_out_with_its_rows(tmp_path, tokenizer):
    texts = [GOOD[0]["text"], "x" * 100_000, GOOD[1]["text"]]
    file = parquet(tmp_path, texts, row_group_size=1, use_dictionary=False)
    caps = Caps(10_000, 50_000)
    found = list(read(file, "text", BytesRead(), caps))
    assert [f.place if isinstance(f, Problem) else f[0] for f in found] == [0, 1, 2]
    assert "the column text has a page of 100," in found[1].reason
    made = build(file, tmp_path / "p", tokenizer, 64, Packing(largest_record=10_000, largest_page=50_000))
    assert made.documents == 2
    assert f"{file}:2" in (tmp_path / "p/quarantine.jsonl").read_text()


def test_a_value_longer_than_is_read_is_left_out_alone(tmp_path, tokenizer):
    file = parquet(tmp_path, [GOOD[0]["text"], "x" * 5000, GOOD[1]["text"]])
    aside = []
    kept = list(read_documents(file, caps=Caps(4000), aside=aside.append))
    assert [d["n"] for d in kept] == [0, 2]
    assert [a.place for a in aside] == [f"{file}:2"]
    batches = [b for b, _ in read_batches(file, "text", BytesRead(), Caps(4000))]
    assert [b.place for b in batches if isinstance(b, Problem)] == [1]
    assert sum(len(b) for b in batches if not isinstance(b, Problem)) == 2


def test_one_long_value_named_many_times_by_a_dictionary_comes_in_small_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_pages, "BUDGET", 1 << 20)
    file = parquet(tmp_path, ["x" * (1 << 16)] * 600, use_dictionary=True)
    with open(file, "rb") as raw, pq.ParquetFile(raw) as opened:
        sizes = [batch.nbytes for batch in bounded_batches(opened, raw, Caps(1 << 20))]
    assert max(sizes) < 2 << 20
    assert sum(sizes) > 600 << 16


def test_page_headers_are_read_as_the_writer_wrote_them(tmp_path):
    texts = [f"{i} {'x' * 200}" for i in range(20_000)]
    for dictionary in (False, True):
        file = parquet(tmp_path, texts, use_dictionary=dictionary, data_page_size=50_000, write_statistics=True)
        with open(file, "rb") as raw, pq.ParquetFile(raw) as opened:
            chunk = opened.metadata.row_group(0).column(0)
            sizes = list(page_sizes(raw, chunk))
            rows = sum(len(b) for b in bounded_batches(opened, raw, Caps(1 << 20)))
        assert len(sizes) > 1
        headers = chunk.total_uncompressed_size - sum(sizes)
        assert 0 < headers < 600 * len(sizes)  # the footer counts the headers in
        assert rows == len(texts)


def test_a_page_nested_deep_is_quarantined_in_linear_time_and_a_long_usual_one_is_read():
    for tag in ("div", "font", "b", "ul><li", "table><tr><td"):
        html = f"<{tag}>" * 40_000 + "text"
        with pytest.raises(ValueError, match="nested 40,000 deep, at most 1,000 are read"):
            main_text(html)
    usual = "<html><body><main>" + "<p>A paragraph of a long page.<br><ul><li>one<li>two</ul>" * 3000 + "</main>"
    assert nesting(usual, NESTING) < 10
    assert nesting("<div>" * NESTING + "</div>" * NESTING, NESTING) == NESTING
    assert "A paragraph" in main_text(usual)


def test_a_pipe_is_no_data(tmp_path):
    import os

    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(JaxptError, match="is not a regular file"):
        build(str(tmp_path / "a.jsonl"), tmp_path / "p", None, 64)


CAPS_OF = {  # what is read with a cap of n, and left out with one of n - 1
    "largest_record": ("a.jsonl", json.dumps({"text": "x" * 986}).encode(), 998, "longer than 997 bytes"),
    "deepest_json": ("a.jsonl", b'{"text": "deep", "more": ' + b"[" * 7 + b"]" * 7 + b"}", 8, "more than 7 deep"),
    "deepest_html": ("a.html", b"<div>" * 30 + b"a usual text in it" + b"</div>" * 30, 30, "30 deep, at most 29"),
}


@pytest.mark.parametrize("cap", CAPS_OF)
def test_a_cap_decides_just_from_its_value_on(tmp_path, cap):
    name, content, value, reason = CAPS_OF[cap]
    (tmp_path / name).write_bytes(content)
    (kept,) = read(str(tmp_path / name), "text", BytesRead(), Caps(**{cap: value}))
    assert not isinstance(kept, Problem)
    (gone,) = read(str(tmp_path / name), "text", BytesRead(), Caps(**{cap: value - 1}))
    assert isinstance(gone, Problem)
    assert reason in gone.reason


def test_a_page_cap_decides_just_from_its_value_on(tmp_path):
    file = parquet(tmp_path, ["x" * 5000] * 3, use_dictionary=False)
    with open(file, "rb") as raw, pq.ParquetFile(raw) as opened:
        largest = max(max(page_sizes(raw, opened.metadata.row_group(0).column(i))) for i in range(2))
    for size, problems in ((largest, 0), (largest - 1, 3)):
        found = list(read(file, "text", BytesRead(), Caps(5001, size)))
        assert sum(isinstance(f, Problem) for f in found) == problems, size


READERS = {  # every command that reads documents, with what else it needs
    "clean": [],
    "extract": [],
    "dedup": ["--engine=numpy"],
    "decontaminate": ["--eval={exam}"],
    "perplexity": ["--train={exam}"],
    "longdoc": ["--how=select"],
    "tokenize": ["--tokenizer={tokenizer}"],
    "pack": ["--tokenizer={tokenizer}", "--sequence_length=32"],
}


@pytest.mark.parametrize("command", READERS)
def test_every_command_takes_the_caps_and_goes_on_after_what_is_beyond_them(tmp_path, tokenizer, command, capsys):
    deep = json.dumps({"text": "a usual text that is nested", "more": [[[[["x"]]]]]})
    file = write(tmp_path, "a.jsonl", [LONG, deep])
    exam = write(tmp_path, "exam.jsonl", [])
    given = [o.format(exam=exam, tokenizer=tokenizer.files[0]) for o in READERS[command]]
    flags = [f"--input={file}", *given, "--quarantine_limit=1"]
    assert main([command, *flags, f"--output={tmp_path}/all"]) == 0
    caps = ["--largest_record=4000", "--deepest_json=4", "--largest_page=1000000"]
    assert main([command, *flags, *caps, f"--output={tmp_path}/out"]) == 0
    kept = [[f for f in (tmp_path / name).rglob("*.jsonl") if "quarantine" in str(f)] for name in ("all", "out")]
    reasons = ["".join(file.read_text() for file in files) for files in kept]
    assert not any(why in reasons[0] for why in ("longer than", "nested more"))
    assert all(why in reasons[1] for why in ("longer than 4", "nested more than 4 deep"))
    assert main([command, *flags, "--deepest_json=0", f"--output={tmp_path}/no"]) == 1
    assert "deepest_json=0 must be at least 1" in capsys.readouterr().err


def test_classify_takes_the_caps_in_training_in_ranking_and_in_labelling(tmp_path):
    pytest.importorskip("fasttext", reason="fastText is not installed (jaxpt[data])")
    rows = [{"text": f"good words are here {i}", "label": "high"} for i in range(30)]
    rows += [{"text": f"bad things lie there {i}", "label": "low"} for i in range(30)]
    labelled = tmp_path / "labelled.jsonl"
    labelled.write_text("".join(json.dumps(r) + "\n" for r in [*rows, {"text": "x" * 5000}]))
    train = ["classify", f"--train={labelled}", f"--model={tmp_path}/m.bin", "--set=dim=8"]
    assert main(train) == 1  # the long one has no label
    assert main([*train, "--largest_record=4000"]) == 0
    pool = write(tmp_path, "a.jsonl", [LONG])
    apply = ["classify", f"--input={pool}", f"--model={tmp_path}/m.bin", f"--output={tmp_path}/o", "--keep=1"]
    assert main([*apply, "--largest_record=4000", "--quarantine_limit=1"]) == 0
    report = json.loads((tmp_path / "o/classify.json").read_text())
    assert (report["threshold"]["documents"], report["shards"][0]["quarantined"]) == (len(GOOD), 1)


def test_caps_are_keys_of_a_pipeline_and_change_a_shards_fingerprint_only_where_they_are_not_the_usual(tmp_path):
    from data_tools.pipelines.pipeline import Pipeline, PipelineStep
    from data_tools.pipelines.planning import plan
    from data_tools.shards.records import open_shards

    file = write(tmp_path, "a.jsonl", [])
    steps = (PipelineStep("clean"), PipelineStep("tokenize", options={"tokenizer": "T"}))
    usual = plan(Pipeline(file, steps), str(tmp_path / "w"))
    capped = plan(Pipeline(file, steps, deepest_html=50, largest_record=9000), str(tmp_path / "w"))
    assert [s.step.caps for s in usual] == [RAW, CAPS]
    assert [s.step.caps.deepest_html for s in capped] == [50, 50]
    assert [s.step.caps.largest_record for s in capped] == [9000, 9000]
    assert all(a.key != b.key for a, b in zip(usual, capped))
    prints = [open_shards(file, caps=caps)[0].fingerprint for caps in (RAW, CAPS, Caps(64 << 20, deepest_json=7))]
    assert len(set(prints)) == 3
    content = (tmp_path / "a.jsonl").read_bytes()
    assert prints[0] == hashlib.sha256(content).hexdigest()
    assert prints[1] == hashlib.sha256(content + str(8 << 20).encode()).hexdigest()  # as before there were further caps


@pytest.mark.parametrize(("line", "reason"), [("{broken", "not JSON"), ('["a"]', "a list"), ('{"id": 1}', "lacks the")])
def test_a_line_that_is_no_record_is_left_out_of_a_packed_source_and_the_rest_packed(tmp_path, tokenizer, line, reason):
    file = write(tmp_path, "a.jsonl", [line])
    made = build(file, tmp_path / "p", tokenizer, 64)
    assert made.documents == len(GOOD)
    (aside,) = map(json.loads, (tmp_path / "p/quarantine.jsonl").read_text().splitlines())
    assert aside["place"] == f"{file}:2"
    assert reason in aside["reason"]
    with pytest.raises(JaxptError, match=r"a\.jsonl:2: "):
        list(read_documents(file))  # where nobody takes what is left out, it is not left out
    many = write(tmp_path, "b.jsonl", [line] * 12)
    with pytest.raises(JaxptError, match=r"75.0% of the records could not be read .*b\.jsonl:2: "):
        build(many, tmp_path / "q", tokenizer, 64)
    assert not (tmp_path / "q").exists()
    assert (
        build(many, tmp_path / "q", tokenizer, 64, Packing(quarantine_limit=0.8)).facts["options"]["quarantined"] == 12
    )
    assert made.facts["options"].keys() == build(file, tmp_path / "r", tokenizer, 64).facts["options"].keys()


def test_an_input_without_a_record_is_given_up_early(tmp_path, tokenizer):
    file = tmp_path / "a.jsonl"
    file.write_text('{"txt": "a"}\n' * 3000)
    with pytest.raises(JaxptError, match=r"none of 1,000 records could be read; the first is .*a\.jsonl:1: lacks"):
        build(str(file), tmp_path / "p", tokenizer, 64)
