"""Records that grow when they are read are left out with their place, in bounded memory; all others are packed."""

import gzip
import io
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_tools.io.readers import BytesRead, Problem, read, read_batches
from jaxpt.data import parquet_pages
from jaxpt.data.build import Packing, build
from jaxpt.data.parquet_pages import bounded_batches, page_sizes
from jaxpt.data.text_files import read_documents, read_line
from jaxpt.errors import JaxptError
from jaxpt.tokenizers import train_sentencepiece

html = pytest.importorskip("data_tools.io.html", reason="resiliparse is not installed (jaxpt[data])")
NESTING, main_text, nesting = html.NESTING, html.main_text, html.nesting

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


def test_a_page_of_parquet_larger_than_is_read_is_left_out_with_its_rows(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(parquet_pages, "LARGEST_PAGE", 50_000)
    texts = [GOOD[0]["text"], "x" * 100_000, GOOD[1]["text"]]
    file = parquet(tmp_path, texts, row_group_size=1, use_dictionary=False)
    found = list(read(file, "text", BytesRead(), 10_000))
    assert [f.place if isinstance(f, Problem) else f[0] for f in found] == [0, 1, 2]
    assert "the column text has a page of 100," in found[1].reason
    made = build(file, tmp_path / "p", tokenizer, 64, Packing(largest_record=10_000))
    assert made.documents == 2
    assert f"{file}:2" in (tmp_path / "p/quarantine.jsonl").read_text()


def test_a_value_longer_than_is_read_is_left_out_alone(tmp_path, tokenizer):
    file = parquet(tmp_path, [GOOD[0]["text"], "x" * 5000, GOOD[1]["text"]])
    aside = []
    kept = list(read_documents(file, largest=4000, aside=aside.append))
    assert [d["n"] for d in kept] == [0, 2]
    assert [a.place for a in aside] == [f"{file}:2"]
    batches = [b for b, _ in read_batches(file, "text", BytesRead(), 4000)]
    assert [b.place for b in batches if isinstance(b, Problem)] == [1]
    assert sum(len(b) for b in batches if not isinstance(b, Problem)) == 2


def test_one_long_value_named_many_times_by_a_dictionary_comes_in_small_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_pages, "BUDGET", 1 << 20)
    file = parquet(tmp_path, ["x" * (1 << 16)] * 600, use_dictionary=True)
    with open(file, "rb") as raw, pq.ParquetFile(raw) as opened:
        sizes = [batch.nbytes for batch in bounded_batches(opened, raw, 1 << 20)]
    assert max(sizes) < 2 << 20
    assert sum(sizes) > 600 << 16


def test_page_headers_are_read_as_the_writer_wrote_them(tmp_path):
    texts = [f"{i} {'x' * 200}" for i in range(20_000)]
    for dictionary in (False, True):
        file = parquet(tmp_path, texts, use_dictionary=dictionary, data_page_size=50_000, write_statistics=True)
        with open(file, "rb") as raw, pq.ParquetFile(raw) as opened:
            chunk = opened.metadata.row_group(0).column(0)
            sizes = list(page_sizes(raw, chunk))
            rows = sum(len(b) for b in bounded_batches(opened, raw, 1 << 20))
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
    assert nesting(usual) < 10
    assert nesting("<div>" * NESTING + "</div>" * NESTING) == NESTING
    assert "A paragraph" in main_text(usual)


def test_a_pipe_is_no_data(tmp_path):
    import os

    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(JaxptError, match="is not a regular file"):
        build(str(tmp_path / "a.jsonl"), tmp_path / "p", None, 64)
