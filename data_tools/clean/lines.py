"""Cut lines out of texts: C4's rules, DataComp-LM's, navigation and boilerplate, rows of symbols.

Each function takes a text and its options and returns the text that stays with what was cut: (rule, line, excerpt)
triples. They are linear in the length of the text.
"""

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from data_tools.clean import characters

EXCERPT = 200  # characters of a cut line that are kept as evidence
LineCut = tuple[str, int, str]  # rule, number of the line from 0, its beginning
Options = Mapping[str, Any]

_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")


def _cut(rule: str, number: int, line: str) -> LineCut:
    return rule, number, line[:EXCERPT]


def c4_lines(text: str, options: Options) -> tuple[str, list[LineCut], dict[str, float]]:
    """Keeps lines that read like sentences (C4), without citations; also counts lorem ipsum and curly brackets.

    Returns:
        The kept lines, stripped and joined by line feeds; the cuts; `lorem_ipsum` and `curly_brackets`: lines with them
        among those that no earlier rule cut.
    """
    kept: list[str] = []
    cuts: list[LineCut] = []
    values = {"lorem_ipsum": 0.0, "curly_brackets": 0.0}
    ends, longest, least = tuple(options["ends"]), options["longest_word"], options["least_words"]
    phrases = options["phrases"]
    for number, line in enumerate(text.splitlines()):
        line = line.strip()
        if not line:
            continue
        words = line.split(None, least)  # no more than needed to know whether there are enough
        if len(line) > longest and max(map(len, line.split())) > longest:
            cuts.append(_cut("long_word", number, line))
            continue
        if options["citations"] and "[" in line:
            line = _CITATION.sub("", line)
        if ends and (not line.endswith(ends) or line.endswith("...")):
            cuts.append(_cut("no_end_mark", number, line))
            continue
        if len(words) < least:
            cuts.append(_cut("few_words", number, line))
            continue
        lower = line.lower()
        values["lorem_ipsum"] += "lorem ipsum" in lower
        if options["javascript"] and "javascript" in lower:
            cuts.append(_cut("javascript", number, line))
            continue
        values["curly_brackets"] += "{" in line
        if any(phrase in lower for phrase in phrases):
            cuts.append(_cut("policy", number, line))
            continue
        kept.append(line)
    return "\n".join(kept).strip(), cuts, values


_COUNTER = re.compile(
    r"\W*\d[\d,.]*\s?[kKmM]?\s+(?:likes?|shares?|comments?|retweets?|reposts?|quotes?|bookmarks?|upvotes?|downvotes?|"
    r"downloads?|views?|followers?)\W*$",
    re.IGNORECASE,
)
_CART = re.compile(r"\(?\d* ?items? in (?:your )?cart\)?", re.IGNORECASE)
_READ_MORE = re.compile(r"\s*\(?read more(?:\s*\.{3}|…)?\)?$", re.IGNORECASE)
_SIGN_IN = re.compile(r"^sign[- ]?in\b\W*", re.IGNORECASE)


_UPPER = string.ascii_uppercase.encode()
_LETTERS = string.ascii_letters.encode()


def _upper_share(line: str) -> float:
    if line.isascii():  # counted by what deleting them leaves: 20 times faster
        raw = line.encode()
        letters = len(raw) - len(raw.translate(None, _LETTERS))
        return (len(raw) - len(raw.translate(None, _UPPER))) / letters if letters else 0.0
    letters = sum(map(str.isalpha, line))
    return sum(map(str.isupper, line)) / letters if letters else 0.0


def dclm_lines(text: str, options: Options) -> tuple[str, list[LineCut], dict[str, float]]:
    """Cuts shouted lines, numbers, counters ("3 likes") and one-word lines; trims "Read more..." (RefinedWeb, DCLM).

    Returns:
        The text, the cuts, and `edited_words`: the share of words that went.
    """
    kept: list[str] = []
    cuts: list[LineCut] = []
    before = after = 0
    for number, line in enumerate(text.splitlines()):
        words = line.split()
        before += len(words)
        rule = ""
        if words and len(words) < options["least_words"]:
            rule = "one_word"
        elif words and line.strip().isnumeric():
            rule = "number"
        elif words and _upper_share(line) > options["uppercase"]:
            rule = "uppercase"
        elif words and len(line) < 80 and _COUNTER.match(line):
            rule = "counter"
        if rule:
            cuts.append(_cut(rule, number, line))
            continue
        if 0 < len(words) <= options["short_line"] and len(line) < 400:
            trimmed = _SIGN_IN.sub("", _READ_MORE.sub("", _CART.sub("", line)))
            if trimmed != line:
                cuts.append(_cut("phrase", number, line))
                words, line = trimmed.split(), trimmed
                if not words:
                    continue
        kept.append(line)
        after += len(words)
    edited = {"edited_words": (before - after) / before if before else 0.0}
    return ("\n".join(kept) if cuts else text), cuts, edited


_BARS = ("|", "»", "›", "·", " / ", " > ")
_BAR = re.compile(r"\s[·/>]\s|[|»›·]")
LONGEST_BOILERPLATE = 400  # characters of a line that can be a bar or a stock phrase
_UNSPACED = re.compile(rf"[{characters.UNSPACED_CLASS}]")


def _length(line: str) -> int:
    """Returns words, counting two characters of an unspaced script as one."""
    return len(line.split()) + len(_UNSPACED.findall(line)) // 2


def _short(line: str, most: int) -> bool:
    return len(line) <= 12 * most and _length(line) <= most and line[-1] not in characters.TERMINALS


def boilerplate_lines(text: str, options: Options) -> tuple[str, list[LineCut], dict[str, float]]:
    """Cuts navigation bars, stock phrases, and runs of short lines at the top and the bottom of a page.

    Options: `bar_parts`: a line of so many parts between separators is a bar when the parts are short; `phrases`: a
    line of at most `phrase_words` words that holds one goes; `run`: so many short lines in a row (of at most
    `short_words` words, without an end mark) at either end go.
    """
    lines = text.split("\n")
    rules: dict[int, str] = {}
    short = {number: line for number, line in enumerate(lines) if 0 < len(line) <= LONGEST_BOILERPLATE}
    together = "\n".join(short.values())
    lower = together.lower()
    phrases = [phrase for phrase in options["phrases"] if phrase in lower]
    bars = [bar for bar in _BARS if bar in together]
    for number, line in short.items() if bars or phrases else ():
        if line.isspace():
            continue
        if bars and sum(map(line.count, bars)) > 1:
            parts = [p for p in _BAR.split(line) if p and not p.isspace()]
            if len(parts) >= options["bar_parts"] and _length(line) <= len(parts) * options["short_words"]:
                rules[number] = "navigation_bar"
                continue
        if phrases and _length(line) <= options["phrase_words"]:
            own = line.lower()
            if any(phrase in own for phrase in phrases):
                rules[number] = "stock_phrase"
    for order in (range(len(lines)), range(len(lines) - 1, -1, -1)):
        _mark_run(lines, order, rules, options)
    cuts = [_cut(rules[n], n, lines[n].strip()) for n in sorted(rules)]
    if not cuts:
        return text, cuts, {}
    return "\n".join(l for n, l in enumerate(lines) if n not in rules).strip("\n"), cuts, {}


def _mark_run(lines: Sequence[str], order: Sequence[int], rules: dict[int, str], options: Options) -> None:
    """Marks the short lines that `order` meets before the first longer one, when there are enough of them."""
    run = []
    for number in order:
        line = lines[number].strip()
        if line and number not in rules:
            if not _short(line, options["short_words"]):
                break
            run.append(number)
    if len(run) >= options["run"] and len(run) < len(lines):
        rules.update(dict.fromkeys(run, "menu"))


def symbol_lines(text: str, options: Options) -> tuple[str, list[LineCut], dict[str, float]]:
    """Cuts lines that consist of the given symbols and spaces; an empty line stands for a run of them."""
    symbols = frozenset(options["symbols"]) | {" "}
    if not any(s in text for s in options["symbols"]):
        return text, [], {}
    kept: list[str] = []
    cuts: list[LineCut] = []
    inside = False
    for number, line in enumerate(text.splitlines()):
        if line.strip() and symbols.issuperset(line):
            cuts.append(_cut("symbols", number, line))
            if not inside:
                kept.append("")
            inside = True
        else:
            kept.append(line)
            inside = False
    return ("\n".join(kept) if cuts else text), cuts, {}
