"""The edits that a preset may name: each takes a text and gives back what stays of it and what was cut.

Rules after an edit see the edited text; what an edit measures on its way can be a rule of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from data_tools.clean import domains, lines, personal
from data_tools.clean.addresses import domain
from data_tools.clean.lines import EXCERPT, LineCut
from data_tools.clean.repair import repair
from data_tools.clean.wrapping import unwrap
from data_tools.io.batch import Rule

RecordFields = Mapping[str, Any]  # fields of the record that edits may look at
Edited = tuple[str, list[LineCut], dict[str, float]]


@dataclass(frozen=True)
class Edit:
    """An edit, its options with their defaults, and what it measures."""

    function: Callable[[str, Mapping[str, Any], RecordFields], Edited]
    about: str
    options: Mapping[str, Any] = field(default_factory=dict)
    measures: tuple[Rule, ...] = ()
    first: bool = False  # before all rules, where a preset does not name it


def _lines(
    function: Callable[[str, Mapping[str, Any]], Edited],
) -> Callable[[str, Mapping[str, Any], RecordFields], Edited]:
    return lambda text, options, row: function(text, options)


def _repair(text: str, options: Mapping[str, Any], row: RecordFields) -> Edited:
    fixed = repair(text)
    return (text, [], {}) if fixed is text else (fixed, [("text", 0, _difference(text, fixed))], {})


def _difference(old: str, new: str) -> str:
    """Returns the beginning of the first line in which two texts differ, as it was."""
    for before, after in zip(old.split("\n"), new.split("\n")):
        if before != after:
            return before[:EXCERPT]
    return old[:EXCERPT]


def _unwrap(text: str, options: Mapping[str, Any], row: RecordFields) -> Edited:
    joined = unwrap(text)
    return (text, [], {}) if joined is text else (joined, [("text", 0, text[:EXCERPT])], {})


def _personal(text: str, options: Mapping[str, Any], row: RecordFields) -> Edited:
    masked, counts = personal.mask(text, options, options["replace"])
    return masked, [(kind, number, "") for kind, times in counts.items() for number in range(times)], {}


def _domain_lines(text: str, options: Mapping[str, Any], row: RecordFields) -> Edited:
    return domains.domain_lines(text, options, domain(row["url"]))


EDITS: dict[str, Edit] = {
    "repair": Edit(_repair, "repairs wrongly decoded characters (ftfy)"),
    "unwrap": Edit(
        _unwrap,
        "joins lines that were wrapped at a fixed width; write: unwrapped, or as_is where no later edit cuts anything",
        {"write": "unwrapped"},
        first=True,
    ),
    "c4_lines": Edit(
        _lines(lines.c4_lines),
        "keeps lines that read like sentences",
        {
            "ends": (".", "?", "!", '"', "'"),
            "least_words": 3,
            "longest_word": 1000,
            "citations": True,
            "javascript": True,
            "phrases": (
                "terms of use",
                "privacy policy",
                "cookie policy",
                "uses cookies",
                "use of cookies",
                "use cookies",
            ),
        },
        (Rule("lorem_ipsum", high=10), Rule("curly_brackets", high=50)),
    ),
    "dclm_lines": Edit(
        _lines(lines.dclm_lines),
        "cuts shouted lines, numbers, counters and one-word lines",
        {"uppercase": 0.5, "least_words": 2, "short_line": 10},
        (Rule("edited_words", high=0.5),),
    ),
    "boilerplate_lines": Edit(
        _lines(lines.boilerplate_lines),
        "cuts navigation bars, stock phrases, menus",
        {"bar_parts": 3, "short_words": 3, "phrase_words": 20, "run": 4, "phrases": ()},
    ),
    "symbol_lines": Edit(_lines(lines.symbol_lines), "cuts lines of symbols alone", {"symbols": ("|",)}),
    "domain_lines": Edit(
        _domain_lines,
        "cuts lines that many records of one domain hold",
        {"least": 10, "splits": 1, "file": ""},
    ),
    "personal": Edit(
        _personal,
        "masks e-mail addresses, public IP addresses, telephone numbers",
        {"email": True, "ip": True, "ipv6": False, "phone": False, "replace": "placeholder"},
    ),
}
