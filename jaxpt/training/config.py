"""A run's config as frozen dataclasses: every key stated once, with its default, its type and what it means."""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxpt.config.choice import choice_option, option
from jaxpt.config.duration import parse, parse_interval
from jaxpt.data.build import Packing
from jaxpt.data.pose import Pose
from jaxpt.data.weights import flat_weights
from jaxpt.errors import JaxptError, nearest
from jaxpt.evaluation import evaluation
from jaxpt.evaluation.evaluation import Evaluation
from jaxpt.files.names import path_component
from jaxpt.models.compute import Compute
from jaxpt.models.mup import MupConfig
from jaxpt.models.section import ModelSection, RopeSection
from jaxpt.objectives.objective import Objective
from jaxpt.optim.averaging import Averaging
from jaxpt.optim.clipping import Clipping
from jaxpt.optim.guard import Guard
from jaxpt.optim.optimizer import Optimizer
from jaxpt.optim.schedule import Schedule
from jaxpt.sharding.mesh import check_axes
from jaxpt.training import batch_ramp
from jaxpt.training.recovery import Recovery


@dataclass(frozen=True)
class SourceConfig:
    """A packed source, or text that is packed on first use.

    `path` is a packed source's directory; or JSONL and Parquet (a file, a directory or a glob) or a prepared dataset of
    TFDS (`tfds:NAME/config:version?split=train`), packed as `pack` says in rows as long as those of the stages that use
    it. `repeat` is how often its rows may be used in the run; `order_seed` fixes their order.
    """

    path: str = option(doc="a packed source's directory, or text: JSONL, Parquet, a glob, tfds:NAME/config?split=train")
    pack: Packing = option(Packing(), "how text becomes rows")
    order_seed: int = option(0, "fixes the order of its rows")
    repeat: int = option(1, "how often its rows may be used in the run")
    when_exhausted: Literal["error", "renormalise"] = option("error", "stop, or share its weight among the others")


@dataclass(frozen=True)
class ReweightConfig:
    """Weights that follow the losses of held-out documents; see `jaxpt.data.reweight`.

    The losses are those of `evaluations.bits_per_byte.documents`, which must name every source in use. `reference` is a
    JSON file of nats per token by source, or a model (bundle, run, Hugging Face directory) to be measured on them.
    """

    every: str | None = option(None, 'so often, as "400 steps" or "2M tokens"; None: never')
    reference: str | None = option(None, "losses to reach: a JSON file of nats per token by source, or a model")
    rate: float = option(1.0, "how fast weights follow the distance of a loss from its reference")
    floor: float = option(1e-4, "least weight that a source keeps")
    clip: bool = option(False, "a loss below its reference counts as equal to it")


@dataclass(frozen=True)
class StageConfig:
    """One leg of a run.

    `mixture` gives each source a number, `"size"`, or groups `{weight, sources}`: see `jaxpt.data.weights`.
    Weights count row slots, or with `mixture_unit` "tokens" real tokens without padding.
    `load` says what continues from the stage before (or from `init_from`): "params" starts the optimizer new,
    and what the objective trains besides the model.
    `freeze` lists axis names ("vocab"), path patterns ("blocks/*/q") and layers ("layers[0:4]", global numbers).
    `rope` replaces fields of the model's rope from this stage on. `pose` lets positions skip at random up to a target.
    `batch_ramp` changes the batch size on the way; the rows of a microbatch stay, so its number changes along.
    """

    duration: str = option(doc='"500 steps" or "2M tokens"')
    batch_size: int = option(doc="rows of the global batch")
    sequence_length: int = option(doc="tokens of a row")
    mixture: dict[str, Any] = option(doc='weight of each source: a number, "size", or a group {weight, sources}')
    mixture_unit: Literal["rows", "tokens"] = option("rows", "whether weights count rows, or tokens without padding")
    reweight: ReweightConfig = ReweightConfig()
    name: str = option("", "left out: stage0, stage1, …")
    microbatches: int = option(1, "parts of a batch whose gradients are summed")
    batch_ramp: tuple[str, ...] = option((), 'other batch sizes, from a place of the stage on: "64 from 2M tokens"')
    learning_rate: float | None = option(None, "the stage's peak; None: optimizer.learning_rate")
    schedule: Schedule = choice_option(Schedule, "how the learning rate moves through the stage")
    objective: Objective = choice_option(Objective, "what is minimised")
    load: Literal["params", "params+optimizer"] = option("params+optimizer", "what goes on from before")
    freeze: tuple[str, ...] = option((), 'axes ("vocab"), paths ("blocks/*/q"), layers ("layers[0:4]") that stay')
    rope: RopeSection | None = option(None, "what changes in the model's rope from this stage on")
    pose: Pose | None = option(None, "positions that skip at random, for longer contexts")

    @property
    def tokens_per_step(self) -> int:
        """B × S, before any change of the batch size."""
        return self.batch_size * self.sequence_length

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage."""
        return sum(steps for _, steps in self.left(0, 0))

    def left(self, steps: int, tokens: int) -> list[tuple[int, int]]:
        """Returns (batch size, steps) of what is left once so many steps and tokens of the stage are done."""
        where = f"stages[{self.name}]"
        ramp = batch_ramp.changes(self.batch_ramp, self.batch_size, self.microbatches, f"{where}.batch_ramp")
        duration = parse(self.duration, f"{where}.duration")
        return batch_ramp.left(duration, self.batch_size, self.sequence_length, ramp, steps, tokens)

    def at_size(self, batch_size: int) -> "StageConfig":
        """Returns the stage as its steps of another batch size are; a microbatch keeps its rows."""
        if batch_size == self.batch_size:
            return self
        rows = self.batch_size // self.microbatches
        return dataclasses.replace(self, batch_size=batch_size, microbatches=batch_size // rows)


@dataclass(frozen=True)
class ShardingConfig:
    """The mesh (-1: all devices left), changes to the rule table from axis names to mesh axes, several processes."""

    mesh: dict[str, int] = option({"data": 1, "fsdp": -1, "tensor": 1}, "length of each axis (-1: all devices left)")
    rules: Any = option(None, "changes to the table from axis names to mesh axes")
    allow_replicated: tuple[str, ...] = option((), "axes whose parameters may lie whole on every device")
    lost_after: float = option(120.0, "seconds without a sign of life until one process of several counts as lost")

    def __post_init__(self) -> None:
        check_axes(self.mesh, "mesh.")
        if not 1 <= self.lost_after < math.inf:
            raise JaxptError(f"config.sharding.lost_after is {self.lost_after}, it must be a second or more")


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written and kept: the `keep` newest, every stage's last, and one per `keep_every`."""

    every: str = option("1000 steps", "how often one is written")
    keep: int = option(3, "how many of the newest stay; the last of each stage and those of keep_every stay besides")
    keep_every: str | None = option(None, "one per so many steps or tokens stays for good")
    asynchronous: bool = option(True, "write while training goes on")


@dataclass(frozen=True)
class MetricsConfig:
    """`every` is in steps; `peak_flops_per_device` (FLOP/s) is what MFU divides by, None: from the device's kind."""

    every: int = option(10, "steps between two records")
    tensorboard: bool = option(True, "write event files beside metrics.jsonl")
    peak_flops_per_device: float | None = option(None, "FLOP/s for MFU; None: from the device's kind")
    watch: int | None = option(None, "steps between two records of norms by axis group (docs/guards.md); None: none")


@dataclass(frozen=True)
class RuntimeConfig:
    """How the process computes, which no result depends on beyond rounding; see `jaxpt.sharding.xla_flags`.

    `xla_flags` are by name without dashes; those in the variable `XLA_FLAGS` override them. Compiled programs are kept
    in `compile_cache` (None: in `JAX_COMPILATION_CACHE_DIR`, else beside packed sources, in `~/.cache/jaxpt/compiled`).
    """

    xla_flags: dict[str, str] = option({}, "flags of XLA by name, over jaxpt's own; XLA_FLAGS overrides them")
    deterministic: bool = option(False, "the same bits in every run, also on GPUs; costs speed there")
    compile_cache: str | None = option(
        None, 'where compiled programs are kept; None: the user\'s cache; "off": nowhere'
    )


@dataclass(frozen=True)
class BranchConfig:
    """Which rows a branch takes. Siblings from one checkpoint are different models and may share theirs.

    With `rows` "apart", `part` "i/n" takes every n-th of the rows that follow, from the i-th on: the n siblings with i
    from 1 to n share none, as long as they have the same sources and no row is repeated.
    """

    rows: Literal["shared", "apart"] = option("shared", "whether siblings may take the same rows, or take others")
    part: str = option("", 'of rows="apart": which of how many siblings this is, as "1/2"')

    @property
    def apart(self) -> tuple[int, int] | None:
        """The number of the part, from 0, and of how many; None where rows may be shared."""
        if self.rows == "shared":
            return None
        number, _, of = self.part.partition("/")
        return int(number) - 1, int(of)

    def __post_init__(self) -> None:
        if self.rows == "shared":
            if self.part:
                raise JaxptError(f'part is {self.part!r} and rows "shared"; set --config.branch.rows=apart')
            return
        match = re.fullmatch(r"([1-9][0-9]*)/([1-9][0-9]*)", self.part)
        if not match or int(match[1]) > int(match[2]):
            raise JaxptError(
                f"part is {self.part!r}; rows=apart needs which of how many siblings this is, for the first of two "
                f"--config.branch.part=1/2"
            )


@dataclass(frozen=True)
class RunConfig:
    """All of a run. `init_from` is a bundle, a run directory or a Hugging Face directory to start from.

    `cache` is where sources given as text are packed (None: `~/.cache/jaxpt`). With `leave_out_seen`, rows that hold a
    document which the run behind `init_from` saw are not taken, however and at whatever length they were packed. With
    `branch_from`, RUN@STEP, the run goes on from a copy of that checkpoint with stages of its own; `init_from` and the
    shape of the model then are the trunk's.
    """

    moved: ClassVar[Mapping[str, str]] = evaluation.MOVED

    sources: dict[str, SourceConfig] = option(doc="packed sources, or text to be packed, by name")
    stages: tuple[StageConfig, ...] = option(doc="the legs of the run, in order")
    seed: int = option(0, "of everything random in the run")
    model: ModelSection = option(ModelSection(), "a preset and what differs from it")
    mup: MupConfig | None = option(None, "maximal-update parameterisation; left out: the standard one")
    init_from: str | None = option(None, "a bundle, run or Hugging Face directory to start from")
    branch_from: str | None = option(None, "RUN@STEP: go on from that checkpoint of another run, as its branch")
    branch: BranchConfig = option(BranchConfig(), "which rows a branch takes")
    tokenizer: str | None = option(
        None, "its directory; None: that of init_from, else the one that a packed source carries"
    )
    cache: str | None = option(None, "where text is packed; None: ~/.cache/jaxpt")
    leave_out_seen: bool = option(True, "take no row that the run behind init_from saw")
    optimizer: Optimizer = choice_option(Optimizer, "how gradients move the parameters")
    clipping: Clipping = choice_option(Clipping, "a limit on gradients or updates besides optimizer.clip_norm")
    guard: Guard = choice_option(Guard, "which steps count")
    recovery: Recovery = choice_option(Recovery, "what follows a loss that is not finite, or spikes that last")
    averaging: Averaging = choice_option(Averaging, "a mean of the parameters over the steps, beside them")
    compute: Compute = option(Compute(), "how the forward pass is computed; the function stays the same")
    sharding: ShardingConfig = option(ShardingConfig(), "the mesh, and what lies where on it")
    checkpoint: CheckpointConfig = option(CheckpointConfig(), "when checkpoints are written and kept")
    evaluations: dict[str, Evaluation] = option({}, "what is measured on the way, by a name for each")
    metrics: MetricsConfig = option(MetricsConfig(), "what is recorded, and how often")
    runtime: RuntimeConfig = option(RuntimeConfig(), "XLA's flags, determinism, where compiled programs are kept")

    def __post_init__(self) -> None:
        if not self.stages:
            raise JaxptError("config.stages is empty; give at least one stage")
        names = [s.name or f"stage{i}" for i, s in enumerate(self.stages)]
        object.__setattr__(self, "stages", tuple(dataclasses.replace(s, name=n) for s, n in zip(self.stages, names)))
        for i, name in enumerate(names):
            path_component(name, f"config.stages[{i}].name")
        for key, entries in (("sources", self.sources), ("evaluations", self.evaluations)):
            for name in entries:
                path_component(name, f"config.{key}")
        if len(set(names)) != len(names):
            raise JaxptError(f"config.stages: two stages have the same name ({', '.join(names)})")
        for i, stage in enumerate(self.stages):
            _check_stage(f"config.stages[{i}]", stage, self.sources)
        _positive("config.metrics.every", self.metrics.every)
        _positive("config.checkpoint.keep", self.checkpoint.keep)
        for name, source in self.sources.items():
            _positive(f"config.sources.{name}.repeat", source.repeat)
        if self.metrics.watch is not None:
            _positive("config.metrics.watch", self.metrics.watch)
        for key in ("optimizer", "clipping", "guard", "averaging"):
            getattr(self, key).check(f"config.{key}")
        if self.branch != BranchConfig() and self.branch_from is None:
            raise JaxptError("config.branch needs config.branch_from=RUN@STEP, which says what this is a branch of")
        self.recovery.check("config.recovery", self.guard)
        entries = evaluation.entries_to_measure("config.evaluations", self.evaluations)
        object.__setattr__(self, "evaluations", entries)
        for name in ("every", "keep_every"):
            parse_interval(getattr(self.checkpoint, name), f"config.checkpoint.{name}")


def _check_stage(where: str, stage: StageConfig, sources: dict[str, SourceConfig]) -> None:
    for name in ("batch_size", "sequence_length", "microbatches"):
        _positive(f"{where}.{name}", getattr(stage, name))
    if stage.batch_size % stage.microbatches:
        raise JaxptError(
            f"{where}.batch_size is {stage.batch_size}, not a multiple of microbatches ({stage.microbatches})"
        )
    _not_negative(f"{where}.learning_rate", stage.learning_rate or 0.0)
    parse(stage.duration, f"{where}.duration")
    ramp = batch_ramp.changes(stage.batch_ramp, stage.batch_size, stage.microbatches, f"{where}.batch_ramp")
    if ramp and stage.reweight.every:
        raise JaxptError(f"{where}.batch_ramp and {where}.reweight.every do not go together; split the stage in two")
    if stage.steps < 1:
        raise JaxptError(f"{where}.duration is {stage.duration!r}: not a single step")
    if parse_interval(stage.reweight.every, f"{where}.reweight.every") and stage.reweight.reference is None:
        raise JaxptError(f"{where}.reweight.reference is missing: give a JSON file of losses by source, or a model")
    if not 0 <= stage.reweight.floor < 1:
        raise JaxptError(f"{where}.reweight.floor is {stage.reweight.floor}, it must be at least 0 and below 1")
    weights = flat_weights(stage.mixture, None, f"{where}.mixture")
    for name in weights:
        if name not in sources:
            have = f"; the sources are {', '.join(sources)}" if sources else "; no sources are given"
            raise JaxptError(f"{where}.mixture.{name}: there is no source {name!r}{nearest(name, sources) or have}")
    if sum(weights.values()) <= 0:
        raise JaxptError(f"{where}.mixture gives no source a weight above 0")


def _not_negative(where: str, value: float) -> None:
    if not value >= 0:
        raise JaxptError(f"{where} is {value}, it must be at least 0")


def _positive(where: str, value: int) -> None:
    if value < 1:
        raise JaxptError(f"{where} is {value}, it must be at least 1")
