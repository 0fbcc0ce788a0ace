"""Warnings: none for a source without documents, one line together for sources of few."""

from data_tools.shards.alarms import Loss, warnings


def loss(name, before, after):
    return Loss(name, before, after, 1 - after / max(before, 1), f"{name} lost much")


def test_an_empty_shard_has_lost_nothing_and_a_large_source_has_its_line():
    assert warnings([loss("empty", 0, 0), loss("web", 100, 20), loss("good", 100, 60)], 0.5) == ["web lost much"]


def test_sources_of_one_book_each_have_one_line_together_and_a_single_one_its_own():
    books = [loss(f"book{i:02}", 1, i % 2) for i in range(30)]
    lines = warnings([*books, loss("web", 100, 20)], 0.5, "clean: ")
    assert lines[0] == "web lost much"
    assert lines[1:] == [
        "warning: clean: 15 sources of fewer than 10 documents lost 15 of 15 (alarm at 50%): book00, book02, book04, …"
    ]
    assert warnings([loss("book", 1, 0), loss("other", 1, 1)], 0.5) == ["book lost much"]
