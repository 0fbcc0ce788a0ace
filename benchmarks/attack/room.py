"""What every kind of attack is given: victims, children, a folder for copies, random numbers, how often to try."""

import random
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.attack.children import Children
from benchmarks.attack.victims import Victims


@dataclass
class Room:
    """Shared by all attacks; `trials` scales how often each is tried."""

    folder: Path
    victims: Victims
    children: Children
    rng: random.Random
    trials: int
    _count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def place(self) -> Path:
        """A new empty folder, with a name as long as every other's."""
        with self._lock:
            self._count += 1
            place = self.folder / f"trial-{self._count:05d}"
        place.mkdir(parents=True)
        return place

    def copy(self, victim: Path) -> Path:
        """A copy of a victim in a folder of its own, under the same name."""
        target = self.place() / victim.name
        shutil.copytree(victim, target, symlinks=True)
        return target


def drop(path: Path) -> None:
    """Removes a trial's folder, whatever its rights are by now."""
    shutil.rmtree(path, ignore_errors=True)
