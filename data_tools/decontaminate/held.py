"""Which evaluation items each source of training documents holds, from the lines of `removals/`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from data_tools.decontaminate.index import Item, ItemIndex, Match
from data_tools.shards.counts import total
from jaxpt.data.contamination import Contamination, EvaluationSet, Held, HeldItem, digest_of


def rules_of(matches: Iterable[Match]) -> dict[str, dict[str, float]]:
    """Returns what a document's removal says of its items: digest -> rule -> value."""
    out: dict[str, dict[str, float]] = {}
    for match in matches:
        out.setdefault(digest_of(match.item.text), {})[match.rule] = match.value
    return out


def contamination(
    items: Sequence[Item],
    index: ItemIndex,
    fields: Sequence[str],
    manifests: Sequence[Mapping[str, Any]],
    lines: Iterable[tuple[str, Mapping[str, Any]]],
) -> Contamination:
    """Returns what each source holds.

    Args:
        items: of the evaluation sets, all of them in file order, copies too.
        index: made of them.
        fields: that make an item's text.
        manifests: of the shards.
        lines: of their removals, each with its shard's name, which stands for a source that a record does not name.
    """
    found: dict[str, dict[str, Held]] = {}
    for shard, line in lines:
        for digest, rules in line["held"].items():
            found.setdefault(digest, {}).setdefault(line.get("source", shard), Held()).add(rules)
    unchecked = {digest_of(item.text) for item in index.unchecked}
    digests: dict[str, list[str]] = {}
    held = []
    for item in items:
        mine = digests.setdefault(item.task, [])
        digest = digest_of(item.text)
        if digest in found:
            held.append(HeldItem(item.task, item.id, len(mine), digest, dict(sorted(found[digest].items()))))
        mine.append(digest)
    sets = {
        name: EvaluationSet(tuple(all_), tuple(i for i, d in enumerate(all_) if d in unchecked))
        for name, all_ in sorted(digests.items())
    }
    documents = {name: entry["in"]["documents"] for name, entry in total(manifests).items()}
    return Contamination(tuple(fields), asdict(index.rules), documents, sets, tuple(held))
