"""The picture of the rooms: a house of floors, each room above those that it imports; SVG, drawn from the code."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.house.imports import direct, floors, room_imports

WIDTH = 720  # units; letters of 21 units are 11 pixels high on a phone that is 375 wide
ROW, BOX, MARGIN = 100, 44, 16
LETTER = 13.5  # width of one letter of a name, at most
PASSAGE = 26.0  # width kept free for a line that passes a row
COLUMNS = 4  # rooms side by side, at most
HIDDEN = {"__init__", "__main__", "errors"}  # names handed out, and what all rooms import

# The card is opaque, so that it reads on any page; where the viewer says that it is dark, the card is dark too.
STYLE = """
.card { fill: #fbfaf7 } .box { fill: #ffffff; stroke: #33506b; stroke-width: 2 }
.roof { fill: #dfeaf5 } .line { fill: none; stroke: #6f8296; stroke-width: 2 } text { fill: #14202b }
.name { font: 600 21px system-ui, sans-serif; text-anchor: middle }
.note { font: 19px system-ui, sans-serif; text-anchor: start; fill: #46586a }
@media (prefers-color-scheme: dark) {
.card { fill: #12181f } .box { fill: #1d2731; stroke: #8fb2d4 } .roof { fill: #2c4056 }
.line { stroke: #7d93a8 } text { fill: #edf2f7 } .note { fill: #b4c2cf } }
"""

Passage = tuple[str, str, int]  # a line from a room to one that it imports, where it passes a row between the two
Place = str | Passage


@dataclass(frozen=True)
class Spot:
    """Where a room or a passage lies: its horizontal middle, its top and its width."""

    x: float
    y: float
    width: float


def graph_of(checkout: Path) -> dict[str, set[str]]:
    """Returns what is drawn: jaxpt's rooms and what they import; data_tools, which has rooms of its own, as one."""
    out: dict[str, set[str]] = {}
    for room, below in room_imports(checkout).items():
        if _short(room) not in HIDDEN:
            out.setdefault(_short(room), set()).update(_short(b) for b in below if _short(b) not in HIDDEN)
    return {name: below - {name} for name, below in out.items()}


def _short(room: str) -> str:
    package, _, name = room.partition("/")
    return name if package == "jaxpt" else package


def rows_of(graph: Mapping[str, set[str]]) -> list[list[Place]]:
    """Returns rooms and passages row by row, the ground first; a floor of many rooms takes several rows.

    Within a row each stands near the middle of its neighbours in the rows above and below, so that lines stay short.

    Raises:
        ValueError: rooms that import each other in a circle, named.
    """
    height, edges = floors(graph), direct(graph)
    rows: list[list[Place]] = []
    for floor in sorted(set(height.values())):
        names = sorted(n for n in graph if height[n] == floor)
        pieces = -(-len(names) // COLUMNS)
        rows += [list(names[i::pieces]) for i in range(pieces)]
    at = {name: r for r, row in enumerate(rows) for name in row}
    near: dict[Place, list[Place]] = {}
    for name in sorted(graph):
        for below in sorted(edges[name]):
            way: list[Place] = [name, *((name, below, r) for r in range(at[name] - 1, at[below], -1)), below]
            for r, passage in zip(range(at[name] - 1, at[below], -1), way[1:-1]):
                rows[r].append(passage)
            for one, other in itertools.pairwise(way):
                near.setdefault(one, []).append(other)
                near.setdefault(other, []).append(one)
    for sweep in range(24):
        for r in range(len(rows)) if sweep % 2 == 0 else reversed(range(len(rows))):
            x = {place: (i + 0.5) / len(row) for row in rows for i, place in enumerate(row)}
            middle = {p: sum(x[q] for q in near.get(p, [p])) / len(near.get(p, [p])) for p in rows[r]}
            rows[r] = sorted(rows[r], key=lambda p: (middle[p], str(p)))
    return rows


def spots_of(rows: list[list[Place]]) -> dict[Place, Spot]:
    """Returns where everything lies, the ground lowest."""
    out: dict[Place, Spot] = {}
    for r, row in enumerate(rows):
        widths = [len(place) * LETTER + 22 if isinstance(place, str) else PASSAGE for place in row]
        free = (WIDTH - 2 * MARGIN - sum(widths)) / len(row)
        left = MARGIN + free / 2
        for place, width in zip(row, widths):
            out[place] = Spot(left + width / 2, MARGIN + (len(rows) - 1 - r) * ROW, width)
            left += width + free
    return out


def draw(checkout: Path) -> str:
    """Returns the picture as SVG; the same code gives the same bytes.

    Raises:
        ValueError: rooms that import each other in a circle, named.
    """
    graph = graph_of(checkout)
    rows = rows_of(graph)
    spots = spots_of(rows)
    edges = direct(graph)
    height = MARGIN + (len(rows) - 1) * ROW + BOX + 50
    lines = [_line(name, below, rows, spots) for name in sorted(graph) for below in sorted(edges[name])]
    roofs = set(graph) - set().union(*graph.values())
    boxes = [_box(name, spots[name], name in roofs) for name in sorted(graph)]
    note = "A room stands above all that it imports. Implied lines are left out."
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>The rooms of jaxpt and their imports</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="card" width="{WIDTH}" height="{height}" rx="14"/>',
        *lines, *boxes, f'<text class="note" x="{MARGIN}" y="{height - 16}">{note}</text>', "</svg>", "",
    ])  # fmt: skip


def _line(name: str, below: str, rows: list[list[Place]], spots: Mapping[Place, Spot]) -> str:
    passages = [p for row in reversed(rows) for p in row if isinstance(p, tuple) and p[:2] == (name, below)]
    x, y = spots[name].x, spots[name].y + BOX
    path = f"M {x:.0f} {y:.0f}"
    for place in (*passages, below):
        spot = spots[place]
        half = (spot.y - y) / 2
        path += f" C {x:.0f} {y + half:.0f}, {spot.x:.0f} {spot.y - half:.0f}, {spot.x:.0f} {spot.y:.0f}"
        if place != below:
            path += f" V {spot.y + BOX:.0f}"
        x, y = spot.x, spot.y + BOX
    return f'<path class="line" d="{path}"/>'


def _box(name: str, spot: Spot, roof: bool) -> str:
    left = spot.x - spot.width / 2
    return (
        f'<rect class="box{" roof" if roof else ""}" x="{left:.0f}" y="{spot.y:.0f}" width="{spot.width:.0f}" '
        f'height="{BOX}" rx="8"/><text class="name" x="{spot.x:.0f}" y="{spot.y + BOX / 2 + 7:.0f}">{name}</text>'
    )
