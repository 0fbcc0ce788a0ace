"""Which items each source holds: exactly those that were planted, as a count of 13-grams in plain Python has them."""

import gzip
import json
import random
import re
from collections import Counter

import pytest

from data_tools.commands import decontaminate, inspect
from jaxpt.data import contamination
from jaxpt.errors import JaxptError

rng = random.Random(0)
WORDS = sorted({"".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(3000)})


def words(n):
    return rng.sample(WORDS, n)


ITEMS = [words(20 + n) for n in range(16)]
SHORT = ["yes", "it", "is"]


def exchanged(item):
    """A near duplicate: every eighth word another, so that no 13 in a row are left."""
    return [("xxxx" if i % 8 == 7 else word) for i, word in enumerate(item)]


PLANTED = {  # source -> documents, each of which holds these pieces
    "web": [[ITEMS[0]], [ITEMS[0], ITEMS[1]], [exchanged(ITEMS[2])], [ITEMS[3][:13]], [ITEMS[4][:12]]],
    "books": [[ITEMS[1]], [ITEMS[5][2:18]], [exchanged(ITEMS[12])]],
    "code": [[ITEMS[6][:5]], [list(reversed(ITEMS[7]))]],
}


def grams(tokens, width=13):
    return {tuple(tokens[i : i + width]) for i in range(len(tokens) - width + 1)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two sets, of which the second has a copy of the first's item 0 in it; three sources in two shards."""
    folder = tmp_path_factory.mktemp("held")
    (folder / "eval").mkdir()

    def write(name, rows):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    sets = {"one": ITEMS[:8], "two": [*ITEMS[8:], ITEMS[0], SHORT]}
    for name, items in sets.items():
        rows = [{"id": f"{name}-{i}", "question": " ".join(item), "answer": i} for i, item in enumerate(items)]
        write(f"eval/{name}.jsonl", rows)
    documents = []
    for source, pieces in PLANTED.items():
        for number, parts in enumerate(pieces):
            tokens = words(120)
            for part in parts:
                tokens += [*part, *words(40)]
            documents.append({"id": f"{source}-{number}", "source": source, "tokens": tokens})
    documents += [{"id": f"web-clean-{n}", "source": "web", "tokens": words(100)} for n in range(5)]
    rows = [{"id": d["id"], "source": d["source"], "text": " ".join(d["tokens"])} for d in documents]
    write("a.jsonl", rows[::2])
    write("b.jsonl", [*rows[1::2], {"id": "nameless", "text": " ".join([*words(100), *ITEMS[8]])}])
    documents.append({"id": "nameless", "source": "b.jsonl", "tokens": rows[0]["text"].split()[:1] + ITEMS[8]})
    flags = [
        f"--input={folder}/a.jsonl,{folder}/b.jsonl",
        f"--output={folder}/out",
        f"--eval={folder}/eval",
        "--eval_fields=question",
    ]
    assert decontaminate.main(flags) == 0
    return folder, sets, documents, flags


def verdicts(found, rule):
    return {(source, item.digest) for item in found.items for source, h in item.sources.items() if rule in h.rules}


def test_every_source_holds_what_shares_thirteen_words_in_a_row_and_nothing_else(made):
    folder, _, documents, _ = made
    want = {}
    for item in ITEMS:
        digest = contamination.digest_of(" ".join(item))
        for document in documents:
            if grams(item) & grams(document["tokens"]):
                want[document["source"], digest] = want.get((document["source"], digest), 0) + 1
    found = contamination.read(str(folder / "out"))
    assert len(want) == 6
    assert verdicts(found, "long") == set(want)
    held = {
        (s, i.digest): h.rules["long"].documents for i in found.items for s, h in i.sources.items() if "long" in h.rules
    }
    assert held == want
    assert found.held[contamination.digest_of(" ".join(ITEMS[5]))]["books"].rules["long"].most == 16


def test_near_duplicates_are_held_by_another_rule_and_a_few_common_words_or_another_order_are_not(made):
    folder, *_ = made
    found = contamination.read(str(folder / "out"))
    near = {(source, contamination.digest_of(" ".join(ITEMS[n]))) for source, n in (("web", 2), ("books", 12))}
    assert near <= verdicts(found, "gapped")
    assert not near & verdicts(found, "long")
    assert verdicts(found, "gapped") <= near | {("web", contamination.digest_of(" ".join(ITEMS[4])))}  # 12 words of 24
    assert not {contamination.digest_of(" ".join(ITEMS[n])) for n in (6, 7, 9, 10, 15)} & set(found.held)


def test_positions_ids_and_copies_are_those_of_the_files_and_the_unchecked_are_named(made):
    folder, sets, documents, _ = made
    found = contamination.read(str(folder / "out/contaminated.json"))
    assert {name: list(s.digests) for name, s in found.sets.items()} == {
        name: [contamination.digest_of(" ".join(item)) for item in items] for name, items in sets.items()
    }
    copies = [(i.set, i.id, i.position) for i in found.items if i.digest == contamination.digest_of(" ".join(ITEMS[0]))]
    assert copies == [("one", "one-0", 0), ("two", "two-8", 8)]
    assert found.sets["two"].unchecked == (9,)
    assert found.sets["one"].unchecked == ()
    assert found.fields == ("question",)
    names = [d["source"] for d in documents]
    assert found.sources == {name: names.count(name) for name in set(names)}


def test_the_table_says_items_and_share_per_set_and_source(made, capsys):
    folder, _, _, flags = made
    before = (folder / "out/contaminated.json").read_bytes()
    capsys.readouterr()
    assert decontaminate.main(flags) == 0  # finished shards are not done again, the report is
    assert (folder / "out/contaminated.json").read_bytes() == before
    said = " ".join(capsys.readouterr().out.split())
    for line in ("one web 5 0.625 6", "one books 2 0.25 2", "two web 1 0.1 2", "two b.jsonl 1 0.1 1"):
        assert line in said, said
    assert "sources that hold no item: code" in said
    assert inspect.main([f"{folder}/out", f"--html={folder}/report.html"]) == 0
    assert "one web 5 0.625 6" in " ".join(capsys.readouterr().out.split())
    row = "<td>one</td><td>web</td><td>5</td><td>62.50%</td><td>6</td>"
    assert row in (folder / "report.html").read_text()


def test_a_source_that_holds_less_is_told_apart(made, tmp_path):
    """The proofs above can fail: without the documents that hold them, items are not held."""
    folder, *_ = made
    rows = [json.loads(line) for name in "ab" for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row.get("source") != "books"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    flags = [f"--input={tmp_path}/in.jsonl", f"--output={tmp_path}/out", f"--eval={folder}/eval"]
    assert decontaminate.main([*flags, "--eval_fields=question"]) == 0
    found = contamination.read(str(tmp_path / "out"))
    assert contamination.digest_of(" ".join(ITEMS[5])) not in found.held
    assert set(found.held[contamination.digest_of(" ".join(ITEMS[1]))]) == {"web"}
    assert "books" not in found.sources


def test_of_real_problems_those_are_held_that_a_count_in_plain_python_finds(shared, tmp_path):
    train, test = shared / "data/math/gsm8k_train.jsonl.gz", shared / "data/eval/gsm8k_test.jsonl.gz"
    assert decontaminate.main([f"--input={train}", f"--eval={test}", f"--output={tmp_path}/out"]) == 0

    def tokens_of(file):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            return [re.findall(r"\w+", json.loads(line)["text"].lower()) for line in lines]

    owners = {}
    for number, item in enumerate(tokens_of(test)):
        for gram in grams(item):
            owners.setdefault(gram, set()).add(number)
    want = Counter()
    for document in tokens_of(train):
        want.update({n for gram in grams(document) if len(owners.get(gram, ())) < 5 for n in owners.get(gram, ())})
    found = contamination.read(str(tmp_path / "out"))
    got = {i.position: h.rules["long"].documents for i in found.items for h in i.sources.values() if "long" in h.rules}
    assert (len(want), want.total()) == (10, 11)
    assert got == dict(want)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: [], "not a list of contaminated items"),
        (lambda v: v | {"format": "other"}, "not a list of contaminated items"),
        (lambda v: v | {"version": 9}, "version 9"),
        (lambda v: {k: x for k, x in v.items() if k != "sets"}, "damaged"),
        (lambda v: v | {"items": [{**v["items"][0], "position": 3}]}, "is not at 3"),
    ],
)
def test_another_file_is_refused_by_name(made, tmp_path, change, said):
    value = json.loads((made[0] / "out/contaminated.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps(change(value)))
    with pytest.raises(JaxptError, match=said):
        contamination.read(str(tmp_path / "c.json"))
    with pytest.raises(JaxptError, match="is missing"):
        contamination.read(str(tmp_path / "nothing"))
