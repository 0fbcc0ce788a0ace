"""The points of a sweep: what each gives the keys, and the config that it trains; all checked before any runs."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from jaxpt.config.file import load
from jaxpt.config.hints import Value
from jaxpt.errors import JaxptError
from jaxpt.sweeps.over import Texts, literal
from jaxpt.training.config import RunConfig


@dataclass(frozen=True)
class SweepPoint:
    """One run of a sweep: `values` by key as people read them, and the whole config. `name` is that of its folder."""

    values: Mapping[str, Value]
    config: RunConfig = field(compare=False)
    name: str = ""

    @property
    def label(self) -> str:
        """The values in short: the last part of each key, and its value."""
        return ", ".join(f"{short_key(key)} {shown(value)}" for key, value in self.values.items())


def short_key(key: str) -> str:
    """Returns the last part of a key, with the stage's number where it is that of a stage."""
    head, _, last = key.rpartition(".")
    stage = head.rpartition(".")[2]
    return f"{stage}.{last}" if stage.startswith("stages[") and stage != "stages[0]" else last


def shown(value: Value) -> str:
    """Returns a value as tables and pictures show it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def make_points(
    file: str, overrides: Sequence[str], chosen: Sequence[Texts], tokens: int | None, log: Callable[[str], None]
) -> list[SweepPoint]:
    """Returns a point for each of `chosen`.

    Args:
        file: as `--config`.
        overrides: flags that all points have.
        chosen: what each point gives the keys.
        tokens: what each trains on; None: what the config says.
        log: receives a line for each choice that a key changes.

    Raises:
        JaxptError: no such key (with the nearest), a value of another type, a config that cannot be; a key that changes
            nothing; points that train on different numbers of tokens.
    """
    points, lines = [], set()

    def once(line: str) -> None:
        if line not in lines:
            lines.add(line)
            log(line)

    for texts in chosen:
        given = [f"--config.{key}={text}" for key, text in texts.items()]
        config = load(RunConfig, file, [*overrides, *given], once)
        config = config if tokens is None else with_tokens(config, tokens)
        points.append(SweepPoint({key: literal(text) for key, text in texts.items()}, config))
    check_points(points)
    return points


def with_tokens(config: RunConfig, tokens: int) -> RunConfig:
    """Returns `config` with stages that train on `tokens` together, each on the share that it has.

    Raises:
        JaxptError: a stage of less than a step.
    """
    sizes = [stage.steps * stage.tokens_per_step for stage in config.stages]
    edges = [tokens * sum(sizes[:i]) // sum(sizes) for i in range(len(sizes) + 1)]
    stages = []
    for stage, first, stop in zip(config.stages, edges, edges[1:]):
        if stop - first < stage.tokens_per_step:
            raise JaxptError(
                f"--tokens={tokens:,}: stage {stage.name} would get {stop - first:,}, less than one step of "
                f"{stage.tokens_per_step:,}; give more, or a smaller batch"
            )
        stages.append(dataclasses.replace(stage, duration=f"{stop - first} tokens"))
    return dataclasses.replace(config, stages=tuple(stages))


def planned_tokens(config: RunConfig) -> int:
    """Returns the tokens of all stages, each rounded up to whole steps."""
    return sum(stage.steps * stage.tokens_per_step for stage in config.stages)


def check_points(points: Sequence[SweepPoint]) -> None:
    """Raises a JaxptError where points cannot be compared: see `make_points`."""
    if not points:
        raise JaxptError("there is no point; give --over=KEY=VALUE,VALUE,…")
    seen: dict[str, SweepPoint] = {}
    for point in points:
        if (same := seen.setdefault(_what_is_trained(point.config), point)) is not point:
            if same.values == point.values:
                raise JaxptError(f"the point {point.label} is there twice")
            rate = "optimizer.learning_rate"
            why = "; each stage states its own: sweep stages[0].learning_rate" * (rate in point.values)
            raise JaxptError(f"the points {same.label!r} and {point.label!r} are the same run{why}")
    sizes = [planned_tokens(point.config) for point in points]
    step = max(sum(stage.tokens_per_step for stage in point.config.stages) for point in points)
    if max(sizes) - min(sizes) >= step:
        raise JaxptError(
            f"the points train on different numbers of tokens, {min(sizes):,} to {max(sizes):,}, and cannot be "
            f"compared; give them one budget with --tokens=N"
        )


def _what_is_trained(config: RunConfig) -> str:
    """A config as text, without a default that all stages override."""
    if all(stage.learning_rate is not None for stage in config.stages):
        config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=0.0))
    return repr(config)
