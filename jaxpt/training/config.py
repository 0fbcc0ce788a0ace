"""A run's config as frozen dataclasses: every key stated once, with its default, its type and what it means."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxpt.config.duration import Duration, parse
from jaxpt.data.build import Packing
from jaxpt.data.pose import Pose
from jaxpt.data.weights import flat_weights
from jaxpt.errors import JaxptError, nearest
from jaxpt.files.names import path_component
from jaxpt.models.config import ModelConfig, RopeConfig
from jaxpt.models.moe_config import MoeConfig


def _changes(cls: type, **more: Any) -> type:
    """Returns a section that may state any field of `cls`, and `more`; what it leaves out is None."""
    fields = {f.name: f.type for f in dataclasses.fields(cls)} | more
    return dataclasses.make_dataclass(
        f"{cls.__name__}Changes", [(n, t | None, None) for n, t in fields.items()], frozen=True
    )


# The model's own dataclasses check the values when the model is made; a section states what differs from its preset.
RopeSection = _changes(RopeConfig, max_positions=int)
_SECTIONS = {"rope": RopeSection, "rope_local": RopeSection, "moe": _changes(MoeConfig)}
ModelSection = dataclasses.make_dataclass(
    "ModelSection",
    [("preset", str | None, None)]
    + [
        (f.name, _SECTIONS.get(f.name, f.type if f.type in (int, float, bool, str) else Any) | None, None)
        for f in dataclasses.fields(ModelConfig)
    ],
    frozen=True,
)


@dataclass(frozen=True)
class SourceConfig:
    """A packed source, or text that is packed on first use.

    `path` is a packed source's directory; or JSONL and Parquet (a file, a directory or a glob) or a prepared dataset of
    TFDS (`tfds:NAME/config:version?split=train`), packed as `pack` says in rows as long as those of the stages that use
    it. `repeat` is how often its rows may be used in the run; `order_seed` fixes their order.
    """

    path: str
    pack: Packing = field(default_factory=Packing)
    order_seed: int = 0
    repeat: int = 1
    when_exhausted: Literal["error", "renormalise"] = "error"


@dataclass(frozen=True)
class SegmentConfig:
    """A piece of a schedule, ending at `end` × the stage's peak. `duration` may be "10%" of the stage or "rest"."""

    shape: str
    duration: str
    end: float


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate moves through a stage, as multiples of its peak; see `jaxpt.optim.schedules`.

    `decay` and `decay_shape` are read by `wsd`; `segments` and `start` only by `segments`.
    """

    name: str = "cosine"
    warmup: str = "0 steps"
    decay: str = "20%"
    decay_shape: str = "linear"
    end: float = 0.1
    start: float = 0.0
    segments: tuple[SegmentConfig, ...] = ()


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised. `chunk`: positions of a row whose logits exist at once (None: chosen from the size).

    For mixture-of-experts layers: weights of the load-balancing loss over the global batch (`balance`), of the one per
    sequence (`sequence_balance`) and of the router's z-loss (`router_z`); `bias_rate` is the step of the selection bias
    (0 freezes it).
    """

    name: str = "next_token"
    z_loss: float = 0.0
    chunk: int | None = None
    balance: float = 0.0
    sequence_balance: float = 0.0
    router_z: float = 0.0
    bias_rate: float = 0.0


@dataclass(frozen=True)
class ReweightConfig:
    """Weights that follow the losses, `every` so often (None: never); see `jaxpt.data.reweight`.

    The losses are those of `evaluation.bits_per_byte`'s documents, which must name every source in use. `reference` is
    a JSON file of nats per token by source, or a model (bundle, run, Hugging Face directory) to be measured on them.
    """

    every: str | None = None
    reference: str | None = None
    rate: float = 1.0
    floor: float = 1e-4
    clip: bool = False


@dataclass(frozen=True)
class StageConfig:
    """One leg of a run.

    `mixture` gives each source a number, `"size"`, or groups `{weight, sources}`: see `jaxpt.data.weights`.
    Weights count row slots, or with `mixture_unit` "tokens" real tokens without padding.
    `load` says what continues from the stage before (or from `init_from`): "params" starts the optimizer afresh.
    `freeze` lists axis names ("vocab"), path patterns ("blocks/*/q") and layers ("layers[0:4]", global numbers).
    `rope` replaces fields of the model's rope from this stage on. `pose` lets positions skip at random up to a target.
    """

    duration: str
    batch_size: int
    sequence_length: int
    mixture: dict[str, Any]
    mixture_unit: Literal["rows", "tokens"] = "rows"
    reweight: ReweightConfig = ReweightConfig()
    name: str = ""
    microbatches: int = 1
    learning_rate: float | None = None
    schedule: ScheduleConfig = ScheduleConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    load: Literal["params", "params+optimizer"] = "params+optimizer"
    freeze: tuple[str, ...] = ()
    rope: RopeSection | None = None  # type: ignore[valid-type]
    pose: Pose | None = None

    @property
    def tokens_per_step(self) -> int:
        """B × S."""
        return self.batch_size * self.sequence_length

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage."""
        return parse(self.duration, f"stages[{self.name}].duration").steps(self.tokens_per_step)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW's constants; `weight_decay` is multiplied by the learning rate, `clip_norm` None switches clipping off."""

    name: str = "adamw"
    learning_rate: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float | None = 1.0


@dataclass(frozen=True)
class ComputeConfig:
    """How the forward pass is computed: see `jaxpt.models.forward.Compute`."""

    dtype: str = "float32"
    residual_dtype: str | None = None
    remat: str = "none"
    attention: str = "auto"


@dataclass(frozen=True)
class ShardingConfig:
    """The mesh (-1: all devices left) and changes to the rule table from axis names to mesh axes."""

    mesh: dict[str, int] = field(default_factory=lambda: {"data": 1, "fsdp": -1, "tensor": 1})
    rules: Any = None
    allow_replicated: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written and kept: the `keep` newest, every stage's last, and one per `keep_every`."""

    every: str = "1000 steps"
    keep: int = 3
    keep_every: str | None = None
    asynchronous: bool = True


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out documents (JSONL files by name) measured in bits per byte: `every` so often, before and after."""

    every: str | None = None
    before: bool = True
    after: bool = True
    bits_per_byte: dict[str, str] = field(default_factory=dict)
    max_documents: int | None = None
    batch_size: int = 8


@dataclass(frozen=True)
class MetricsConfig:
    """`every` is in steps; `peak_flops_per_device` (FLOP/s) is what MFU divides by, None: from the device's kind."""

    every: int = 10
    tensorboard: bool = True
    peak_flops_per_device: float | None = None


@dataclass(frozen=True)
class RunConfig:
    """All of a run. `init_from` is a bundle, a run directory or a Hugging Face directory to start from.

    `cache` is where sources given as text are packed (None: `~/.cache/jaxpt`). With `leave_out_seen`, rows that hold a
    document which the run behind `init_from` saw are not taken, however and at whatever length they were packed.
    """

    sources: dict[str, SourceConfig]
    stages: tuple[StageConfig, ...]
    seed: int = 0
    model: ModelSection = field(default_factory=ModelSection)  # type: ignore[valid-type]
    init_from: str | None = None
    tokenizer: str | None = None
    cache: str | None = None
    leave_out_seen: bool = True
    optimizer: OptimizerConfig = OptimizerConfig()
    compute: ComputeConfig = ComputeConfig()
    sharding: ShardingConfig = ShardingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    metrics: MetricsConfig = MetricsConfig()

    def __post_init__(self) -> None:
        if not self.stages:
            raise JaxptError("config.stages is empty; give at least one stage")
        names = [s.name or f"stage{i}" for i, s in enumerate(self.stages)]
        object.__setattr__(self, "stages", tuple(dataclasses.replace(s, name=n) for s, n in zip(self.stages, names)))
        for i, name in enumerate(names):
            path_component(name, f"config.stages[{i}].name")
        for key, named in (("sources", self.sources), ("evaluation.bits_per_byte", self.evaluation.bits_per_byte)):
            for name in named:
                path_component(name, f"config.{key}")
        if len(set(names)) != len(names):
            raise JaxptError(f"config.stages: two stages have the same name ({', '.join(names)})")
        for i, stage in enumerate(self.stages):
            _check_stage(f"config.stages[{i}]", stage, self.sources)
        _positive("config.metrics.every", self.metrics.every)
        _positive("config.checkpoint.keep", self.checkpoint.keep)
        _positive("config.evaluation.batch_size", self.evaluation.batch_size)
        for name, source in self.sources.items():
            _positive(f"config.sources.{name}.repeat", source.repeat)
        _check_optimizer("config.optimizer", self.optimizer)
        for key in ("checkpoint.every", "checkpoint.keep_every", "evaluation.every"):
            section, name = key.split(".")
            interval(getattr(getattr(self, section), name), f"config.{key}")


def interval(text: str | None, where: str) -> Duration | None:
    """Reads "every so often"; None stays None, a length of nothing is an error."""
    if text is None:
        return None
    every = parse(text, where)
    if every.amount <= 0:
        raise JaxptError(f"{where} is {text!r}, it must be more than nothing")
    return every


def _check_optimizer(where: str, o: OptimizerConfig) -> None:
    for name in ("learning_rate", "weight_decay"):
        _not_negative(f"{where}.{name}", getattr(o, name))
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(o, name) < 1:
            raise JaxptError(f"{where}.{name} is {getattr(o, name)}, it must be at least 0 and below 1")
    for name in ("eps", "clip_norm"):
        value = getattr(o, name)
        if value is not None and not value > 0:
            hint = " (None: no clipping)" if name == "clip_norm" else ""
            raise JaxptError(f"{where}.{name} is {value}, it must be above 0{hint}")


def _check_stage(where: str, stage: StageConfig, sources: dict[str, SourceConfig]) -> None:
    for name in ("batch_size", "sequence_length", "microbatches"):
        _positive(f"{where}.{name}", getattr(stage, name))
    if stage.batch_size % stage.microbatches:
        raise JaxptError(
            f"{where}.batch_size is {stage.batch_size}, not a multiple of microbatches ({stage.microbatches})"
        )
    _not_negative(f"{where}.learning_rate", stage.learning_rate or 0.0)
    parse(stage.duration, f"{where}.duration")
    if stage.steps < 1:
        raise JaxptError(f"{where}.duration is {stage.duration!r}: not a single step")
    if interval(stage.reweight.every, f"{where}.reweight.every") and stage.reweight.reference is None:
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
