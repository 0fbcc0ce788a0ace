"""Attacks on what is written: flipped bits, signals, full disks, unreadable files, two writers, lost hosts, …"""

import importlib
from collections.abc import Callable
from typing import Any


def _attack(module: str) -> Callable[[Any], Any]:
    return lambda room: importlib.import_module(f"benchmarks.attack.{module}").attack(room)


NAMES = (
    "damage", "stops", "disks", "unreadable", "together", "not_finite", "restarts", "foreign", "archives",
    "lost_host", "hostile", "templates", "bombs",
)  # fmt: skip
KINDS = {name: _attack(name) for name in NAMES}
