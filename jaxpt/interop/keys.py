"""Reading a foreign config.json key by key, so that nothing it asks for is silently ignored."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxpt.errors import JaxptError, short
from jaxpt.interop.inert import INERT, check_named
from jaxpt.models.config import LayerSpec, RopeConfig

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}

# The keys that each kind of rope needs, and what YaRN takes where they are absent.
ROPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "beta_fast", "beta_slow"),
}
YARN_USUAL = {"beta_fast": 32.0, "beta_slow": 1.0}


class Keys:
    """A config.json being read; `finish` refuses what was not asked for and is not known to be inert."""

    def __init__(self, values: Mapping[str, object], where: str, absent: Mapping[str, object] | None = None):
        """Starts reading `values`; `where` names the file in errors, `absent` says what a key left out means."""
        self.values, self.where, self._absent = dict(values), where, absent or {}
        self._read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """Returns a value; where the key is absent, what the family means by that; `default` where that is null too."""
        self._read.add(key)
        value = self.values[key] if key in self.values else self._absent.get(key)
        return default if value is None else value

    def whole(self, key: str, default: int | None = None) -> int:
        """Returns a whole number, which must be there unless there is a default."""
        value = self._needed(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refuse(key, "it must be a whole number")
        if abs(value) >= 2**31:
            raise self.refuse(key, "it must be below 2^31")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Returns a number, which must be there unless there is a default."""
        value = self._needed(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(key, "it must be a number")
        if not math.isfinite(value):
            raise self.refuse(key, "it must be a finite number")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """Returns true or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.refuse(key, "it must be true or false")
        return value

    def _needed(self, key: str, default: Any) -> Any:
        value = self.get(key, default)
        if value is None:
            raise JaxptError(f"{self.where} lacks {key}")
        return value

    def refuse(self, key: str, why: str = "jaxpt does not implement it") -> JaxptError:
        """Returns the error that names a key and its value."""
        return JaxptError(f"{self.where} asks for {key[:100]}={short(self.values.get(key))}: {why}")

    def must_be(self, key: str, *allowed: Any) -> None:
        """Refuses any value but `allowed` (an absent key is fine)."""
        if self.get(key, allowed[0]) not in allowed:
            raise self.refuse(key)

    def activation(self, key: str) -> str:
        """Returns our name of the activation."""
        name = self.get(key)
        if not isinstance(name, str) or name not in ACTIVATIONS:
            raise self.refuse(key, f"known activations are {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[name]

    def rope(self, max_positions: int) -> RopeConfig:
        """Returns the rope of either dialect: `rope_theta` with `rope_scaling`, or `rope_parameters`."""
        self.must_be("partial_rotary_factor", 1.0)
        new, old = self._rope_of("rope_parameters"), self._rope_of("rope_scaling")
        if new and old and new != old:
            raise self.refuse("rope_scaling", "rope_parameters says otherwise; remove one of them")
        values = Keys(new or old or {"rope_theta": self.number("rope_theta")}, f"{self.where}, rope")
        kind = values.get("rope_type", "default")
        made: dict[str, Any] = {"kind": kind, "theta": float(values.number("rope_theta"))}
        if made["theta"] <= 0:
            raise values.refuse("rope_theta", "it must be above 0")
        if not isinstance(kind, str) or kind not in ROPES:
            raise JaxptError(f"{self.where} asks for rope type {short(kind)}; jaxpt implements {', '.join(ROPES)}")
        values.must_be("partial_rotary_factor", 1.0)
        if kind in ("llama3", "yarn"):
            outer = self.get("original_max_position_embeddings")  # where both dialects have it, this one is meant
            values.values |= {} if outer is None else {"original_max_position_embeddings": outer}
            made["original_max_positions"] = values.whole("original_max_position_embeddings", max_positions)
        for name in ROPES[kind]:
            made[name] = float(values.number(name, YARN_USUAL.get(name)))
            if made[name] <= 0:
                raise values.refuse(name, "it must be above 0")
        if kind == "yarn":
            made |= _yarn(values, made["factor"])
        left = {k: v for k, v in values.values.items() if k not in values._read and v is not None}
        if left:
            rest = ", ".join(f"{k[:100]}={short(v)}" for k, v in list(left.items())[:6])
            raise JaxptError(f"{self.where}: rope {kind!r} with {rest} is not implemented")
        return RopeConfig(**made)

    def _rope_of(self, key: str) -> dict[str, object]:
        """One dialect's dictionary with `rope_type` and `rope_theta` in it, empty where the config has it not."""
        values = self.get(key, {})
        if not isinstance(values, Mapping):
            raise self.refuse(key, "it must be a dictionary")
        values = {k: v for k, v in values.items() if v is not None or k == "truncate"}
        if any(isinstance(v, Mapping) for v in values.values()):
            raise self.refuse(key, "a rope per layer type is not read for this family")
        kind = values.pop("type", "default")
        usual = {"rope_type": kind, "rope_theta": self.get("rope_theta")}
        return {**usual, **values} if values or kind != "default" else {}

    def finish(self, inert: Sequence[str] = ()) -> None:
        """Refuses keys that were not read, are not inert (`inert`: by the user's word) and carry a value."""
        check_named(inert, self.values, self._read, self.where)
        known = {*INERT, *inert}
        for key, value in self.values.items():
            off = value is None or value is False or value in ("", [], {})
            off |= not isinstance(value, bool) and value == 0
            neutral = isinstance(value, float) and value == 1.0  # a factor that does nothing; True and 1 say more
            if key not in self._read and key not in known and not (off or neutral):
                unknown = "jaxpt does not know this key; if it does not change the forward pass,"
                raise self.refuse(key, f"{unknown} jaxpt import --inert={key} takes it along")


def _yarn(values: Keys, factor: float) -> dict[str, object]:
    """Attention factor and ramp of YaRN; `mscale` and `mscale_all_dim` are DeepSeek's way of writing the former."""

    def scale(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    given = values.get("attention_factor") is not None
    attention = float(values.number("attention_factor")) if given else None
    top, all_dim = values.number("mscale", 0.0), values.number("mscale_all_dim", 0.0)
    if attention is None and top and all_dim:
        attention = scale(top) / scale(all_dim)
    truncate = values.flag("truncate", "truncate" not in values.values)  # written as null it means false
    return {"attention_factor": attention, "truncate": truncate}


def layer_specs(keys: Keys, usual: Sequence[str], window: int | None) -> tuple[LayerSpec, ...]:
    """Returns the layers of `layer_types`, or `usual` (a kind per layer) where the config leaves them out.

    Raises:
        JaxptError: another number of layers, a kind that is neither full nor sliding attention, or sliding without a
            window.
    """
    kinds = keys.get("layer_types", usual)
    if not isinstance(kinds, list) or len(kinds) != len(usual):
        raise keys.refuse("layer_types", f"it must name a kind for each of num_hidden_layers={len(usual)}")
    made = {"full_attention": LayerSpec()}
    if window is not None:
        made["sliding_attention"] = LayerSpec("window", window)
    for kind in kinds:
        if not isinstance(kind, str) or kind not in made:
            asked = f"asks for {short(kind)} in layer_types (sliding_window {window})"
            raise JaxptError(f"{keys.where} {asked}: jaxpt does not implement it")
    return tuple(made[kind] for kind in kinds)


def read_window(keys: Keys) -> int | None:
    """Returns `sliding_window`, None where it is null."""
    return None if keys.get("sliding_window") is None else keys.whole("sliding_window")


def write_rope(rope: RopeConfig) -> dict[str, object]:
    """Returns a rope in both dialects: readers of the older one ignore `rope_parameters`.

    Raises:
        JaxptError: a rope that is an explicit table, which no foreign config can say.
    """
    if rope.inv_freq is not None:
        raise JaxptError(
            "export: rope.inv_freq (an explicit frequency table) cannot be written in a Hugging Face config; "
            "make target.head_dim a divisor or a multiple of the source's"
        )
    out: dict[str, object] = {"rope_type": rope.kind, "rope_theta": rope.theta}
    if rope.kind != "default":
        out["factor"] = rope.factor
    if rope.kind in ("llama3", "yarn"):
        out["original_max_position_embeddings"] = rope.original_max_positions
    if rope.kind == "llama3":
        out |= {"low_freq_factor": rope.low_freq_factor, "high_freq_factor": rope.high_freq_factor}
    if rope.kind == "yarn":
        usual = RopeConfig()
        for name in ("beta_fast", "beta_slow", "truncate", "attention_factor"):
            if getattr(rope, name) != getattr(usual, name):
                out[name] = getattr(rope, name)
    scaling = {name: value for name, value in out.items() if name != "rope_theta"}
    return {
        "rope_parameters": out,
        "rope_theta": rope.theta,
        "rope_scaling": None if rope.kind == "default" else scaling,
    }
