"""Signatures at rest: computed once per shard, kept beside their scheme, reused when new dumps arrive.

store.json               scheme, bands, kind of unit, runs; shards by number, each with its run
units/<number>.parquet   unit, row, start, stop, tokens, order, high, low
bands/<number>.parquet   unit, b0 … : one uint64 column per band
signatures/<number>.npy  [units, K] uint32
shards/<number>.json     written last: the shard is done
dropped/<run>.parquet    unit, first: what the run dropped, and the kept unit that stands for it
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.dedup import bands as bd
from data_tools.dedup import minhash
from data_tools.dedup import shingles as sh
from data_tools.dedup.units import ROW_BITS, UNITS, Shard, SurvivorRule, exact_hash, order_key
from jaxpt.errors import JaxptError, nearest
from jaxpt.files.lock import NAME
from jaxpt.files.partial import whole_file

BATCH_CHARS = 4 << 20  # texts are hashed in batches of about this many characters
PLACE = {
    "row": np.int64,
    "start": np.int64,
    "stop": np.int64,
    "preference": np.float64,
    "high": np.uint64,
    "low": np.uint64,
}


@dataclass(frozen=True)
class SignatureLayout:
    """What a store is made of; two runs can share one only when these agree."""

    unit: str = "document"
    least_tokens: int = 0  # shorter units are never compared
    near: bool = True  # signatures besides exact hashes
    scheme: minhash.Scheme = field(default_factory=minhash.Scheme)
    bands: bd.Bands = field(default_factory=bd.Bands)
    choice: SurvivorRule = field(default_factory=SurvivorRule)

    def check(self) -> None:
        """Raises JaxptError for settings that cannot work."""
        if self.unit not in UNITS:
            raise JaxptError(f"unit={self.unit!r} is unknown{nearest(self.unit, UNITS)}; known: {', '.join(UNITS)}")
        self.bands.check(self.scheme.permutations)
        self.choice.check()


def write_json(path: Path, value: Any) -> None:
    """Writes beside `path`, then renames."""
    with whole_file(path, path.with_name(path.name + ".tmp")) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True))


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a parquet file beside `path`, then renames."""
    with whole_file(path, path.with_name(path.name + ".tmp")) as temporary:
        pq.write_table(table, temporary, compression="none" if path.parent.name == "bands" else "zstd")


def names_in(path: str | Path) -> list[str]:
    """Returns the names of the shards in a store, none where there is no store."""
    note = Path(path) / "store.json"
    return [shard["name"] for shard in json.loads(note.read_text())["shards"]] if note.is_file() else []


class Store:
    """A folder of signatures."""

    def __init__(self, path: str | Path, layout: SignatureLayout):
        """Opens or begins a store.

        Raises:
            JaxptError: the folder holds a store of another layout.
        """
        self.path, self.layout = Path(path), layout
        layout.check()
        self._check_folder()
        for name in ("units", "bands", "signatures", "shards", "dropped"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        note = self.path / "store.json"
        want = {"format": 1, **asdict(layout)}
        if note.is_file():
            stored = json.loads(note.read_text())
            self._check_folding(note, stored["layout"])
            differ = [key for key in want if stored["layout"].get(key) != want[key]]
            if differ:
                old, new = stored["layout"].get(differ[0]), want[differ[0]]
                raise JaxptError(f"{note}: {differ[0]} is {old}, this run asks for {new}; use another --store")
            self.shards: list[dict] = stored["shards"]
        else:
            self.shards = []
            self._save()

    def _check_folding(self, note: Path, layout: Mapping[str, Any]) -> None:
        """Refuses signatures of texts that were folded by other rules: they cannot be compared with new ones."""
        old, new = layout.get("scheme", {}).get("folding"), self.layout.scheme.folding
        if old != new:
            raise JaxptError(
                f"{note}: signatures of character folding {old}, this version folds by {new}; name a new --store and "
                f"give all shards as --input, those of earlier runs too"
            )

    def _check_folder(self) -> None:
        """Refuses a folder that holds other things than a store."""
        known = ("units", "bands", "signatures", "shards", "dropped", NAME)
        if self.path.is_dir() and not (self.path / "store.json").is_file():
            other = [p.name for p in sorted(self.path.iterdir()) if p.name not in known or any(p.glob("*"))]
            if other:
                raise JaxptError(
                    f"{self.path} holds files and is not a store ({', '.join(other[:3])}); use another --store"
                )

    def _save(self) -> None:
        write_json(self.path / "store.json", {"layout": {"format": 1, **asdict(self.layout)}, "shards": self.shards})

    def enrol(self, shards: Sequence[Shard]) -> list[int]:
        """Gives every shard its number: the old one where name and content are known, else the next of a new run.

        A run that was not finished goes on: its shards have to come again, and others that come with them join it.

        Raises:
            JaxptError: a name whose content has changed, two shards of one name, or a shard of an unfinished run
                that was not given.
        """
        names = [shard.name for shard in shards]
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise JaxptError(f"two input shards are called {twice!r}; give them different names")
        known = {s["name"]: number for number, s in enumerate(self.shards)}
        new = sorted(set(names) - set(known))
        last = max((s["run"] for s in self.shards), default=-1)
        run = last + 1 if last < 0 or self.finished(last) else last
        absent = [s["name"] for s in self.shards if s["run"] == run and s["name"] not in names]
        if absent:
            raise JaxptError(
                f"{self.path}: its last run was not finished and had shard {absent[0]!r}; add it to --input, "
                "or use another --store"
            )
        by_name = {shard.name: shard for shard in shards}
        for name in set(names) & set(known):
            if self.shards[known[name]]["fingerprint"] != by_name[name].fingerprint:
                raise JaxptError(f"shard {name!r} has changed since {self.path} was made; use another --store or name")
        for name in new:
            self.shards.append({"name": name, "fingerprint": by_name[name].fingerprint, "run": run})
        if new:
            self._save()
        known = {s["name"]: number for number, s in enumerate(self.shards)}
        return [known[name] for name in names]

    def finished(self, run: int) -> bool:
        """Whether that run came to its end."""
        return (self.path / "dropped" / f"{run}.parquet").is_file()

    def finish(self, run: int, dropped: pa.Table) -> None:
        """Writes what the run dropped, `(unit, first)`; from then on what it kept stays."""
        write_table(self.path / "dropped" / f"{run}.parquet", dropped)

    def done(self, number: int) -> bool:
        """Whether the shard of that number is signed."""
        return (self.path / "shards" / f"{number}.json").is_file()

    def sign(self, shard: Shard, number: int, signature_path: str = "auto") -> dict:
        """Reads a shard and writes its units, bands and signatures; returns its counts."""
        marker = self.path / "shards" / f"{number}.json"
        if self.done(number):
            return json.loads(marker.read_text())
        columns: list[dict[str, np.ndarray]] = []
        signatures, tokens, documents = [], [], 0
        for batch, places, pieces in self._batches(shard):
            documents += batch
            hashed = minhash.hash_tokens(pieces, signature_path)
            columns.append(places)
            tokens.append(hashed.lengths)
            if self.layout.near:
                signatures.append(minhash.signatures_of_tokens(hashed, self.layout.scheme, signature_path))
        lengths = np.concatenate(tokens) if tokens else np.zeros(0, np.int64)
        count = len(lengths)
        units = np.arange(count, dtype=np.int64) + (number << ROW_BITS)
        joined = {name: np.concatenate([c[name] for c in columns] or [np.zeros(0)]) for name in PLACE}
        order = order_key(joined.pop("preference"), self.shards[number]["run"])
        table = pa.table(
            {
                "unit": units,
                **{name: pa.array(joined[name].astype(np.int32)) for name in ("row", "start", "stop")},
                "tokens": pa.array(lengths, pa.int32()),
                "order": order,
                **{name: pa.array(joined[name].astype(np.uint64)) for name in ("high", "low")},
            }
        )
        write_table(
            self.path / "units" / f"{number}.parquet", table.filter(lengths >= max(self.layout.least_tokens, 1))
        )
        if self.layout.near:
            self._write_signatures(number, units, lengths, signatures)
        counts = {"documents": documents, "units": count, "tokens": int(lengths.sum())}
        write_json(marker, counts)
        return counts

    def _batches(self, shard: Shard) -> Iterator[tuple[int, dict[str, np.ndarray], list[str]]]:
        """Yields, a few megabytes of text at a time: documents read, columns `PLACE` of their units, and the texts."""
        split = UNITS[self.layout.unit]
        rows: list[tuple] = []
        pieces: list[str] = []
        documents = size = 0
        for number, row in enumerate(shard.rows()):
            text = row["text"]
            documents += 1
            for start, stop in split(text):
                piece = text[start:stop]
                rows.append((number, start, stop, self.layout.choice.preference(row, stop - start), *exact_hash(piece)))
                pieces.append(piece)
                size += stop - start
            if size > BATCH_CHARS:
                yield documents, _columns(rows), pieces
                rows, pieces, documents, size = [], [], 0, 0
        if documents:
            yield documents, _columns(rows), pieces

    def _write_signatures(self, number: int, units: np.ndarray, lengths: np.ndarray, parts: list[np.ndarray]) -> None:
        scheme = self.layout.scheme
        all_signatures = np.concatenate(parts) if parts else np.zeros((0, scheme.permutations), np.uint32)
        keep = lengths >= max(self.layout.least_tokens, 1)
        keys = bd.keys(all_signatures[keep], self.layout.bands)
        table = pa.table({"unit": units[keep], **{f"b{i}": row for i, row in enumerate(keys)}})
        write_table(self.path / "bands" / f"{number}.parquet", table)
        folder = self.path / "signatures"
        with whole_file(folder / f"{number}.npy", folder / f"{number}.tmp.npy") as temporary:
            np.save(temporary, all_signatures)

    def paths(self, folder: str) -> list[str]:
        """Returns the files of one kind of all signed shards, by number."""
        return [str(self.path / folder / f"{n}.parquet") for n in range(len(self.shards)) if self.done(n)]

    def signatures(self, number: int) -> np.ndarray:
        """Returns a shard's signatures, memory-mapped `[units, K] uint32`."""
        return np.load(self.path / "signatures" / f"{number}.npy", mmap_mode="r")

    def places(self, number: int) -> Mapping[str, np.ndarray]:
        """Returns `unit, row, start, stop` of a shard's comparable units as arrays, by unit."""
        table = pq.read_table(self.path / "units" / f"{number}.parquet", columns=["unit", "row", "start", "stop"])
        return {name: table[name].to_numpy() for name in table.column_names}

    def run_of(self, units: np.ndarray) -> np.ndarray:
        """Returns the run `[n]` that brought each unit in."""
        return np.array([s["run"] for s in self.shards], dtype=np.int64)[np.asarray(units) >> ROW_BITS]

    def dropped_before(self, run: int) -> pa.Table:
        """Returns `(unit, first)` dropped by the runs before `run`."""
        files = [self.path / "dropped" / f"{r}.parquet" for r in range(run)]
        tables = [pq.read_table(f) for f in files if f.is_file()]
        empty = pa.table({"unit": pa.array([], pa.int64()), "first": pa.array([], pa.int64())})
        return pa.concat_tables(tables) if tables else empty


def _columns(rows: Sequence[tuple]) -> dict[str, np.ndarray]:
    return {name: np.array([row[i] for row in rows], kind) for i, (name, kind) in enumerate(PLACE.items())}


def candidate_tokens(shard: Shard, store: Store, number: int, units: np.ndarray, path: str = "auto") -> sh.Ragged:
    """Reads a shard again and returns the token hashes of the given units (sorted numbers of this shard)."""
    places = store.places(number)
    at = np.searchsorted(places["unit"], units)
    spans: dict[int, list[tuple[int, int]]] = {}
    for row, start, stop in zip(places["row"][at], places["start"][at], places["stop"][at]):
        spans.setdefault(int(row), []).append((int(start), int(stop)))
    parts, pieces, size = [], [], 0
    for row, fields in enumerate(shard.rows()):
        for start, stop in spans.get(row, ()):
            pieces.append(fields["text"][start:stop])
            size += stop - start
        if size > BATCH_CHARS:
            parts.append(minhash.hash_tokens(pieces, path))
            pieces, size = [], 0
    parts.append(minhash.hash_tokens(pieces, path))
    return sh.Ragged.join(parts)
