"""`python -m benchmarks.house`: the picture of the rooms and the figures of the code, or the places behind a figure."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.house.figures import Annotation, annotations, function_lengths, reading_order, rooms
from benchmarks.house.imports import PACKAGES
from benchmarks.house.picture import draw

HERE = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Parses arguments, draws or prints."""
    parser = argparse.ArgumentParser("python -m benchmarks.house", description=__doc__)
    parser.add_argument("--checkout", type=Path, default=HERE, help="the repository to read (this one)")
    parser.add_argument("--draw", type=Path, metavar="SVG", help="write the picture of the rooms")
    parser.add_argument("--any", metavar="PATH", help="list annotations that are or hold Any below a path (jaxpt/data)")
    parser.add_argument("--missing", metavar="PATH", help="list what has no annotation below a path")
    parser.add_argument("--longest", type=int, metavar="N", help="list the N longest functions")
    args = parser.parse_args(argv)
    checkout = args.checkout.resolve()
    if args.any is not None:
        _list(checkout, args.any, [a for a in annotations(checkout) if a.holds_any])
    if args.missing is not None:
        _list(checkout, args.missing, [a for a in annotations(checkout) if not a.text])
    if args.longest:
        for f in reversed(function_lengths(checkout)[-args.longest :]):
            print(f"{f.path.relative_to(checkout)}:{f.line}: {f.name} {f.lines}")
    if args.any is None and args.missing is None and not args.longest:
        print(report(checkout))
    if args.draw:
        try:
            args.draw.write_text(draw(checkout), encoding="utf-8")
        except ValueError as error:
            print(f"{error}; nothing is drawn", file=sys.stderr)
            return 1
    return 0


def _list(checkout: Path, below: str, places: Sequence[Annotation]) -> None:
    for a in places:
        if a.path.is_relative_to(checkout / below):
            print(f"{a.path.relative_to(checkout)}:{a.line}: {a.kind} {a.name}{f': {a.text}' if a.text else ''}")


def report(checkout: Path) -> str:
    """Returns the figures as lines of text."""
    lines = ["functions: median, p99 and longest, in lines"]
    for packages in (PACKAGES, *((p,) for p in PACKAGES)):
        lengths = [f.lines for f in function_lengths(checkout, packages)]
        middle, high = lengths[len(lengths) // 2], lengths[len(lengths) * 99 // 100]
        lines.append(f"  {' + '.join(packages):<20} {len(lengths):>5,} functions: {middle}, {high}, {lengths[-1]}")
    lines.append("annotations that are or hold Any (with aliases followed); arguments and returns without annotation")
    every = annotations(checkout)
    for packages in (PACKAGES, *((p,) for p in PACKAGES)):
        lines.append(_types(" + ".join(packages), [a for a in every if _in(a, checkout, packages)]))
    by_room = rooms(checkout)
    lines.append("rooms: files, lines, and the same of their annotations")
    for room, (files, count) in sorted(by_room.items()):
        here = [a for a in every if a.path.is_relative_to(checkout / room) or a.path == checkout / f"{room}.py"]
        lines.append(_types(f"{room:<26} {files:>3} files {count:>6,} lines", here))
    order = reading_order(checkout)
    lines.append(f"README's reading order: {sum(n for _, n in order):,} lines in {len(order)} files")
    lines += [f"  {count:>5,} {name}" for name, count in order]
    return "\n".join(lines)


def _in(a: Annotation, checkout: Path, packages: Sequence[str]) -> bool:
    return any(a.path.is_relative_to(checkout / package) for package in packages)


def _types(name: str, places: Sequence[Annotation]) -> str:
    def share(part: int, whole: int) -> str:
        return f"{100 * part / whole if whole else 0:.1f} %"

    written = [a for a in places if a.text]
    loose = sum(a.holds_any for a in written)
    hidden = sum(a.holds_any or a.hides_any for a in written)
    arguments = [a for a in places if a.kind == "argument"]
    bare = sum(not a.text for a in arguments)
    returns = [a for a in places if a.kind == "return"]
    silent = sum(not a.text for a in returns)
    return (
        f"  {name:<20} Any {loose:>4} of {len(written):,} = {share(loose, len(written))} "
        f"({share(hidden, len(written))}); without: arguments {bare} = {share(bare, len(arguments))}, "
        f"returns {silent} = {share(silent, len(returns))}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
