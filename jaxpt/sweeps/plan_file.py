"""The plan that a recipe comes to, as a config file that `jaxpt train` runs as it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxpt.config.schema import plain
from jaxpt.errors import JaxptError
from jaxpt.files.partial import whole_file
from jaxpt.training.config import RunConfig
from jaxpt.training.feed import make_feed
from jaxpt.training.overview import overview
from jaxpt.training.run_plan import RunPlan

PLAN = "plan.json"


def write_plan(
    workdir: str, config: RunConfig, open_plan: Callable[[RunConfig], tuple[RunPlan, Any, Any]], way_out: str
) -> Path:
    """Checks a plan, and that there are rows enough for it, prints it and writes it into the folder of its sweep.

    Raises:
        JaxptError: the plan cannot be, or its sources have too few rows; `way_out` is what gives it fewer tokens.
    """
    path = Path(workdir) / PLAN
    try:
        plan, start, _ = open_plan(config)
        make_feed(plan, None, start.ledger if start else [])
    except JaxptError as error:
        raise JaxptError(f"the plan that comes of it cannot be trained: {error}; {way_out} makes it shorter") from error
    print(overview(plan))
    with whole_file(path, path.with_name(path.name + ".tmp")) as temporary:
        temporary.write_text(json.dumps(plain(config), indent=2) + "\n", encoding="utf-8")
    print(f"{path}; train it with jaxpt train --config={path} --workdir=RUN")
    return path


def numbers(flag: str, text: str | None) -> list[float]:
    """Reads `A,B,…`; nothing is no numbers.

    Raises:
        JaxptError: a part that is no number.
    """
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise JaxptError(f"{flag}={text}: give numbers with commas between them") from None
