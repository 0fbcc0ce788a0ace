"""A run's optimizer through a reshape, into a bundle and out of it: the moments with which another run goes on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxpt.bundles.moments import WAY_OUT, Moments, read_tree
from jaxpt.checkpoints.checkpoints import model_of, read_run, read_state
from jaxpt.checkpoints.run_files import WAY_OUT as RUN_WAY_OUT
from jaxpt.config.schema import build, plain
from jaxpt.errors import JaxptError
from jaxpt.files.digests import read_json
from jaxpt.models.params import Array, Params
from jaxpt.models.specs import param_specs
from jaxpt.optim.carry import carry_state
from jaxpt.optim.chain import BuiltOptimizer, make_optimizer
from jaxpt.reshape.apply import apply
from jaxpt.reshape.rewrite import Rewrite
from jaxpt.training.config import RunConfig, ShardingConfig
from jaxpt.training.state import State, abstract_state, make_layout


def carry_moments(checkpoint: Path, rewrites: Sequence[Rewrite]) -> Moments:
    """Returns a run's optimizer state as the rewrites carry it along, on the host.

    Args:
        checkpoint: `RUN/checkpoints/STEP`.
        rewrites: in order; the first starts from the run's model.

    Raises:
        JaxptError: the checkpoint or the run's config cannot be read.
    """
    run, step = checkpoint.parents[1], int(checkpoint.name)
    facts = read_run(run, step)
    model = model_of(facts)
    config = build(RunConfig, read_json(run, "config.json", dict, RUN_WAY_OUT)).optimizer
    optimizer = make_optimizer(config, param_specs(model))
    layout = make_layout(model, ShardingConfig(), jax.local_devices()[:1])
    wanted = abstract_state(model, optimizer, layout)
    items = read_state(run, step, {"params": wanted.params, "opt_state": wanted.opt_state}, facts)
    params, state = jax.device_get(items["params"]), jax.device_get(items["opt_state"])
    reset: set[str] = set()
    for rewrite in rewrites:
        params = apply(rewrite, params)
        after = make_optimizer(config, param_specs(rewrite.target))
        state, new = carry_state(rewrite, optimizer, after, state, params)
        reset, optimizer = reset | set(new), after
    kept = {name: tree for name, tree in state.items() if name not in reset}
    return Moments(plain(config), step, jax.device_get(kept), tuple(sorted(reset)))


def summary(moments: Moments) -> str:
    """Says which states were carried and which start new."""
    carried = ", ".join(moments.states) or "none"
    return f"carried: {carried}; new: {', '.join(moments.reset) or 'none'}"


def describe(facts: Mapping[str, Any] | None) -> str:
    """Says what a bundle's moments are, as the end of a line; nothing where there are none."""
    if facts is None:
        return ""
    new = f"; new: {', '.join(facts['reset'])}" if facts["reset"] else ""
    return f" with the moments of {facts['optimizer']['name']} at step {facts['step']}{new}"


def with_moments(
    bundle: Path, facts: Mapping[str, Any], optimizer: BuiltOptimizer, first: State[Array]
) -> State[Array]:
    """Returns the first state of a run with the moments of a bundle, sharded as they are read.

    Args:
        bundle: its folder.
        facts: what it says of its moments.
        optimizer: of the run.
        first: the state with new moments.

    Raises:
        JaxptError: moments of another optimizer, or of one with other states; damage.
    """
    have, want = facts["optimizer"]["name"], optimizer.config.name
    if have != want:
        raise JaxptError(
            f"{bundle} holds the moments of {have}, config.optimizer.name is {want}; take that one, or "
            f"stages[0].load=params"
        )
    stored = {*facts["shared"], *facts["digests"]}
    odd = sorted((stored | {name for name in facts["reset"] if "/" not in name}) ^ first.opt_state.keys())
    if odd:
        raise JaxptError(f"{bundle}: its moments and this config's optimizer differ in {', '.join(odd)}; {WAY_OUT}")
    state: dict[str, Params | Array] = {}
    for name, new in first.opt_state.items():
        if name not in stored:
            state[name] = new
        elif isinstance(new, Mapping):
            state[name] = read_tree(bundle, facts, name, new)
        else:
            assert isinstance(new, jax.Array), name
            dtype, value = facts["shared"][name]
            state[name] = jax.device_put(jnp.asarray(value, dtype), new.sharding)
    return first._replace(opt_state=state)
