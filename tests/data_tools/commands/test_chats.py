"""`jaxpt-data chats`: records of several forms in, messages out; shards that are done are not done again."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers as hf

from data_tools import __main__ as data_tools
from jaxpt.data.build import Packing, build
from jaxpt.data.chat import within
from jaxpt.data.origins import is_text
from jaxpt.data.text_files import list_files, read_documents
from jaxpt.tokenizers import load
from jaxpt.tokenizers.chat import named_template, render_with_spans
from tests.data.test_chat import SPECIAL, byte_level

SHAREGPT = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "id": "a"}
ALPACA = {"instruction": "Add 1 and 2.", "input": "", "output": "3"}


def chats(folder, *flags):
    return data_tools.main(["chats", f"--input={folder / 'in'}", f"--output={folder / 'out'}", *flags])


def write(path, records):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


def test_forms_of_several_files_become_messages_that_pack_as_chats(tmp_path):
    write(tmp_path / "in" / "a.jsonl", [SHAREGPT, ALPACA])
    pq.write_table(pa.Table.from_pylist([ALPACA | {"output": "three"}]), tmp_path / "in" / "b.parquet")
    assert chats(tmp_path) == 0
    files = list_files(str(tmp_path / "out"))
    assert [f.rsplit("/", 1)[-1] for f in files] == ["a.jsonl", "b.jsonl.zst"]
    talks = [d for f in files for d in read_documents(f, ("messages",))]
    assert [t["messages"][-1]["content"] for t in talks] == ["Hello", "3", "three"]
    assert talks[0]["id"] == "a"
    assert is_text(str(tmp_path / "out"))
    packing = Packing("chat", template="chatml")
    assert build(str(tmp_path / "out"), tmp_path / "packed", byte_level(tmp_path / "t"), 64, packing).documents == 3


def test_a_finished_shard_is_not_written_again_and_a_changed_one_is(tmp_path):
    write(tmp_path / "in" / "a.jsonl", [SHAREGPT])
    write(tmp_path / "in" / "b.jsonl", [SHAREGPT])
    assert chats(tmp_path) == 0
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in ("a.jsonl", "b.jsonl")}
    write(tmp_path / "in" / "b.jsonl", [SHAREGPT, ALPACA])
    assert chats(tmp_path) == 0
    after = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before}
    assert after["a.jsonl"] == before["a.jsonl"]
    assert after["b.jsonl"] != before["b.jsonl"]


def test_what_is_no_conversation_is_in_quarantine_with_its_place(tmp_path, capsys):
    write(tmp_path / "in" / "a.jsonl", [SHAREGPT] * 3 + [{"text": "no talk"}, {"conversations": "[no"}])
    assert chats(tmp_path) == 0
    lines = [json.loads(x) for x in (tmp_path / "out" / "quarantine" / "a.jsonl.jsonl").read_text().splitlines()]
    assert [line["place"].rpartition(", ")[2] for line in lines] == ["record 4", "record 5"]
    assert "is no conversation: it has text" in lines[0]["reason"]
    assert "not records: 2 of 5 lines" in capsys.readouterr().out


def test_too_much_in_quarantine_and_a_field_that_is_not_there_are_errors(tmp_path, capsys):
    write(tmp_path / "in" / "a.jsonl", [SHAREGPT] + [{"text": "no talk"}] * 12)
    assert chats(tmp_path) == 1
    assert "92.3% of the records of a.jsonl could not be read" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "in" / "a.jsonl", [{"orig": ALPACA}, {"orig": "x"}])
    assert chats(tmp_path / "other", "--inside=orig") == 0
    assert "record 2" in (tmp_path / "other" / "out" / "quarantine" / "a.jsonl.jsonl").read_text()


def test_web_archives_are_refused(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.warc.gz").write_bytes(gzip.compress(b"WARC/1.0\r\n"))
    assert chats(tmp_path) == 1
    assert "conversations are read from JSON lines and Parquet" in capsys.readouterr().err


@pytest.mark.parity
@pytest.mark.parametrize("name", ["plain", "chatml"])
def test_ids_and_mask_of_each_published_form_equal_those_of_transformers(tmp_path, shared, name):
    transformers = pytest.importorskip("transformers")
    data, out = shared / "data", tmp_path / "out"
    assert data_tools.main(["chats", f"--input={data}/sft/*.jsonl.gz", f"--output={out}", "--inside=orig"]) == 0
    inner = hf.ByteLevelBPETokenizer(*(str(data / "tokenizers/gpt2" / f) for f in ("vocab.json", "merges.txt")))
    inner.add_special_tokens(SPECIAL)
    inner.save(str(tmp_path / "tokenizer.json"))
    special = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(special))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), **special)
    ours, template = load(tmp_path), named_template(name)
    calls = tools = compared = 0
    for file in list_files(str(out)):
        for talk in list(read_documents(file, ("messages",)))[::10]:
            given = {"tools": talk.get("tools"), "chat_template": template, "return_dict": True}
            want = theirs.apply_chat_template(talk["messages"], **given, return_assistant_tokens_mask=True)
            values = {**ours.special_texts, "tools": talk.get("tools")}
            made = render_with_spans(template, talk["messages"], values, control=ours.control)
            ((ids, offsets),) = ours.encode_with_offsets([made.text], True, [made.literal])
            assert ids.tolist() == want["input_ids"]
            assert within(offsets, made.spans).astype(int).tolist() == want["assistant_masks"]
            assert 0 < sum(want["assistant_masks"]) < len(ids)
            calls += sum(len(m.get("tool_calls", ())) for m in talk["messages"])
            tools += "tools" in talk
            compared += 1
    assert compared > 250
    assert calls > 30
    assert tools > 30
