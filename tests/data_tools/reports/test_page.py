"""The data report: red is what a rule removed, nothing else; it fits a phone and the dark; it has times."""

import json
import re

import numpy as np
import pytest

from data_tools.io.batch import Outcome, Removed, Rule, from_rows
from data_tools.reports import page, report
from data_tools.shards.counts import Counts, total
from data_tools.shards.records import open_shards, run_shards

RULE = Rule("ratio", least=0.25, most=0.75)


def out(picture):
    """Bins with a red part, by the label of the bar."""
    bars = re.findall(r"<g>(.*?)<title>(.*?)</title>", picture)
    return [label for rects, label in bars if 'class="out"' in rects]


def counted(values, removed):
    batch, _ = from_rows([{"text": "a b", "source": "s"} for _ in values], range(len(values)))
    outcome = Outcome.of(batch, [Removed(i, rule, 0) for i, rule in removed], statistics={"ratio": np.array(values)})
    counts = Counts("shard", [RULE])
    counts.add(batch, outcome)
    return json.loads(json.dumps(counts.to_dict()))["sources"]["s"]


def test_only_what_the_rule_removed_is_red_also_at_the_thresholds_and_in_the_last_bin():
    values = [0.0, 0.1, 0.25, 0.5, 0.75, 0.76, 1.0]
    removed = [(0, "ratio"), (1, "other"), (5, "ratio")]  # 1.0 stays, whatever the rule says of it
    entry = counted(values, removed)
    bins = entry["removed_histograms"]["ratio"]
    assert sum(bins) == 2
    found = out(page.histogram(RULE, entry["histograms"]["ratio"], bins))
    assert [label.split(": ")[1] for label in found] == ["1, 1 removed", "2, 1 removed"]  # 0.75 stays, beside 0.76
    assert out(page.histogram(RULE, entry["histograms"]["ratio"])) == []
    assert out(page.histogram(RULE, entry["histograms"]["ratio"], entry["histograms"]["ratio"])) != []  # it can be red


def test_manifests_of_earlier_versions_are_added_to_those_of_today():
    entry = counted([0.1, 0.5], [(0, "ratio")])
    before = {k: v for k, v in entry.items() if k != "removed_histograms"}
    (both,) = total([{"sources": {"s": entry}}, {"sources": {"s": before}}]).values()
    assert sum(both["histograms"]["ratio"]) == 4
    assert both["removed_histograms"]["ratio"] == entry["removed_histograms"]["ratio"]


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": f"word {i}"}) + "\n" for i in range(9)))

    def drop(batch, place):
        removed = [Removed(0, "ratio", 0.1)]
        return Outcome.of(batch, removed, statistics={"ratio": np.linspace(0, 1, len(batch))})

    with report.ownership.writing(folder / "out", "sieve"):
        run_shards(open_shards(str(folder / "a.jsonl")), folder / "out", {}, drop, "sieve", [RULE])
    return report.look(folder / "out")


def test_a_page_fits_a_phone_and_the_dark_and_says_how_long_each_step_took(steps):
    text = page.page(steps, "title", 0.5)
    assert 'name="viewport" content="width=device-width' in text
    assert len(re.findall('<div class="scroll"><table', text)) == text.count("<table") > 2  # each scrolls in itself
    assert "prefers-color-scheme: dark" in text
    style = text[text.index("<style>") : text.index("</style>")]
    painted = [line for line in style.splitlines() if re.search(r"(fill|background|color): *#", line)]
    assert painted == []  # colours are variables, which the dark sets anew
    (row,) = report.times(steps)
    assert row[0] == "out"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", row[1])
    assert row[2] == 1
    assert row[3].endswith(" s")
    assert f"<td>{row[3]}</td>" in text


def test_the_times_of_a_step_started_twice_are_added_up(tmp_path):
    for _ in range(2):
        with report.ownership.writing(tmp_path / "out", "sieve"):
            (tmp_path / "out/manifests").mkdir(exist_ok=True)
            (tmp_path / "out/manifests/a.json").write_text(json.dumps({"name": "a", "input": "x"}))
    note = report.ownership.read_note(tmp_path / "out")
    assert (note["command"], note["starts"]) == ("sieve", 2)
    with pytest.raises(KeyError), report.ownership.writing(tmp_path / "out", "sieve"):
        raise KeyError
    assert report.ownership.read_note(tmp_path / "out") == {**note, "starts": 3}  # what was cut short is not added
