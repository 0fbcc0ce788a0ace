"""Which parameters a stage trains: rules in the axis table's own words, turned into one mask per leaf."""

import fnmatch
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.errors import JaxptError, nearest
from jaxpt.models.config import ModelConfig
from jaxpt.models.params import Params, Tree
from jaxpt.models.specs import Specs, flatten, map_specs, param_specs

Mask = bool | np.ndarray  # True: trained; False: frozen; array [L, 1, …]: some layers of a stack
Masks = Tree[Mask]


def trainable(
    config: ModelConfig,
    specs: Specs,
    freeze: Sequence[str],
    where: str = "freeze",
    *,
    may_freeze_all: bool = False,
) -> Masks:
    """Returns the tree of masks that `freeze` leaves trainable.

    Args:
        config: the model, for which layers a stack holds.
        specs: its axis table.
        freeze: rules: an axis name freezes every parameter with that axis, a path pattern ("blocks/*/q") those it
            matches, "layers[a:b]" the layers with global numbers a ≤ l < b.
        where: config key for error messages.
        may_freeze_all: the objective trains things of its own, so that all parameters may be frozen.

    Raises:
        JaxptError: a rule that freezes nothing, or rules that freeze everything.
    """
    flat = flatten(specs)
    masks: dict[str, Mask] = dict.fromkeys(flat, True)
    for rule in freeze:
        layers = re.match(r"^layers\[(\d*):(\d*)\]$", rule)
        hit = False
        for path, spec in flat.items():
            if layers and spec.stacked:
                numbers = np.array(config.layers_of(path.split("/")[1]))
                low, high = int(layers[1] or 0), int(layers[2] or len(config.layers))
                frozen = (numbers >= low) & (numbers < high)
                hit |= bool(frozen.any())
                masks[path] = _without(masks[path], frozen, len(spec.shape))
            elif rule in spec.axes or fnmatch.fnmatchcase(path, rule):
                hit, masks[path] = True, False
        if not hit:
            axes = sorted({a for s in flat.values() for a in s.axes})
            raise JaxptError(f"{where}: {rule!r} freezes no parameter{nearest(rule, [*axes, *flat])}")
    if all(m is False for m in masks.values()) and not may_freeze_all:
        raise JaxptError(f"{where}: {', '.join(freeze)} freezes every parameter")
    return map_specs(lambda path, spec: masks[path], specs)


def freezes_all(config: ModelConfig, freeze: Sequence[str], where: str = "freeze") -> bool:
    """Whether `freeze` leaves no parameter of a model trainable; arguments and errors as of `trainable`."""
    if not freeze:
        return False
    masks = trainable(config, param_specs(config), freeze, where, may_freeze_all=True)
    return all(mask is False for mask in jax.tree.leaves(masks))


def _without(mask: Mask, frozen: np.ndarray, ndim: int) -> Mask:
    if mask is False:
        return False
    kept = ~frozen if mask is True else mask.reshape(-1) & ~frozen
    return bool(kept[0]) if kept.all() or not kept.any() else kept.reshape(-1, *[1] * (ndim - 1))


def stop_frozen(params: Params, masks: Masks) -> Params:
    """Cuts the gradient of frozen leaves, so that it is never computed."""
    return jax.tree.map(lambda p, m: jax.lax.stop_gradient(p) if m is False else p, params, masks)


def mask_gradients(grads: Params, masks: Masks) -> Params:
    """Zeroes the gradients of frozen leaves and layers, so that norms count what is trained."""
    return jax.tree.map(lambda g, m: g if m is True else g * jnp.asarray(m, g.dtype), grads, masks)


def keep_frozen(new: Params, old: Params, masks: Masks) -> Params:
    """Returns `new` where trained and `old` where frozen: neither decay nor momentum moves a frozen weight."""
    return jax.tree.map(lambda n, o, m: n if m is True else o if m is False else jnp.where(m, n, o), new, old, masks)
