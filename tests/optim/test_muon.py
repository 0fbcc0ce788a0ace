"""Muon: each matrix by itself as a float64 reference has it, on stacks, on experts, on a mesh; what AdamW moves."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from jaxpt.errors import JaxptError
from jaxpt.models.specs import ParamSpec, flatten, map_specs
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.matrices import is_hidden_matrix
from jaxpt.optim.optimizer import Optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.optim.optimizers.muon import Muon
from jaxpt.sharding import make_mesh, param_shardings
from tests.optim.made import SPECS, draw, run

PARAMS = draw(0, size=0.1)
PLAIN = Muon(clip_norm=None, weight_decay=0.0)
ATTENTION = {"q": 1, "k": 1, "v": 1, "o": 2}  # leading dimensions of a piece that are fan in
HEADS = {"q": 1, "k": 1, "v": 1, "o": 0}  # which dimension counts heads
MATRICES = {f"blocks/dense/{n}" for n in (*ATTENTION, "gate", "up", "down")}
MATRICES |= {f"blocks/moe/{n}" for n in (*ATTENTION, "expert_gate", "expert_up", "expert_down")}
STEPS = 3


def newton_schulz(x, steps=5):
    """Jordan's iteration in float64."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x / (np.linalg.norm(x) + 1e-8)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if tall else x


def directions(gradients, config):
    """The last of the directions for a sequence of gradients `[in, out]` of one matrix, float64."""
    beta, mean, square = config.momentum, 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        mean = beta * mean + (1 - beta) * g
        ahead = beta * mean / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)
        u = newton_schulz(ahead if config.nesterov else mean / (1 - beta**t), config.newton_schulz_steps)
        if config.per_neuron:
            square = config.neuron_beta * square + (1 - config.neuron_beta) * np.mean(u**2, axis=0)
            w = u / (np.sqrt(square) + 1e-10)
            u = w * np.linalg.norm(u) / np.linalg.norm(w)
    rows, columns = u.shape
    if config.scale == "shape":
        return u * math.sqrt(max(1, columns / rows))
    return u * config.rms * math.sqrt(max(rows, columns))


def by_hand(path, gradients, config):
    """The direction of a whole parameter, matrix by matrix, with the names written out."""
    spec, name = flatten(SPECS)[path], path.split("/")[-1]
    out = np.empty(spec.shape)
    for index in np.ndindex(spec.pieces):
        pieces = [np.asarray(g[index], np.float64) for g in gradients]
        if name in ATTENTION and config.per_head:
            for h in range(pieces[0].shape[HEADS[name]]):
                at = (*index, *(slice(None),) * HEADS[name], h)
                out[at] = directions([g.take(h, HEADS[name]) for g in pieces], config)
            continue
        rows = math.prod(pieces[0].shape[: ATTENTION.get(name, 1)])
        out[index] = directions([g.reshape(rows, -1) for g in pieces], config).reshape(pieces[0].shape)
    return out


def last_updates(optimizer, shardings=None, specs=SPECS):
    """The updates of step STEPS on drawn gradients."""
    put = (lambda tree: tree) if shardings is None else (lambda tree: jax.device_put(tree, shardings))
    params = put(draw(0, specs, 0.1))
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for i in range(STEPS):
        updates, state = update(put(draw(100 + i, specs)), state, params)
    return flatten(updates)


VARIANTS = [
    PLAIN,
    dataclasses.replace(PLAIN, scale="shape", nesterov=False, newton_schulz_steps=3),
    dataclasses.replace(PLAIN, per_head=True),
    dataclasses.replace(PLAIN, per_neuron=True, momentum=0.9),
    dataclasses.replace(PLAIN, per_neuron=True, per_head=True),
]


@pytest.mark.parametrize("config", VARIANTS, ids=["rms", "shape", "heads", "neurons", "heads_and_neurons"])
def test_each_matrix_of_a_stack_and_each_expert_moves_as_float64_says(config):
    ours = last_updates(make_optimizer(config, SPECS))
    gradients = [flatten(draw(100 + i)) for i in range(STEPS)]
    for path in MATRICES:
        expected = by_hand(path, [g[path] for g in gradients], config)
        np.testing.assert_allclose(ours[path], expected, atol=2e-4, err_msg=path)


def test_another_orthogonalization_of_q_would_be_seen():  # the proof above can fail
    config = dataclasses.replace(PLAIN, per_head=True)
    ours = last_updates(make_optimizer(config, SPECS))
    gradients = [flatten(draw(100 + i))["blocks/moe/q"] for i in range(STEPS)]
    assert not np.allclose(ours["blocks/moe/q"], by_hand("blocks/moe/q", gradients, PLAIN), atol=1e-2)


@pytest.mark.parametrize("nesterov", [True, False])
def test_momentum_and_orthogonalization_together_are_optax_scale_by_muon(nesterov):
    spec = ParamSpec((5, 7), ("embed", "mlp"), ("embed",), ("mlp",))
    config = dataclasses.replace(PLAIN, nesterov=nesterov, rms=1.0)
    theirs = scale_by_muon(
        beta=config.momentum, nesterov=nesterov, weight_dimension_numbers={"w": MuonDimensionNumbers()}
    )
    optimizer, params = make_optimizer(config, {"w": spec}), {"w": jnp.zeros((5, 7))}
    state, other = optimizer.init(params), theirs.init(params)
    for i in range(4):
        g = {"w": jax.random.normal(jax.random.key(i), (5, 7))}
        ours, state = optimizer.update(g, state, params)
        expected, other = theirs.update(g, other, params)
    np.testing.assert_allclose(ours["w"], math.sqrt(7) * expected["w"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(state["mu"]["w"], other.mu["w"])


def test_every_parameter_is_moved_by_exactly_one_of_muon_and_adamw():
    assert {path for path, spec in flatten(SPECS).items() if is_hidden_matrix(spec)} == MATRICES
    specs = make_optimizer(PLAIN, SPECS).state_specs
    by_adamw = set(flatten(specs["nu"]))
    assert by_adamw == set(flatten(SPECS)) - MATRICES
    assert {"embed/table", "head", "blocks/moe/router", "blocks/dense/q_bias", "final_norm"} <= by_adamw
    assert set(flatten(specs["mu"])) == set(flatten(SPECS))


def test_what_adamw_moves_it_moves_as_adamw_does_with_a_rate_of_its_own():
    config = Muon(clip_norm=None, learning_rate=1e-2, adam_learning_rate=3e-3, weight_decay=0.1)
    optimizer = make_optimizer(config, SPECS)
    plain = make_optimizer(AdamW(clip_norm=None, weight_decay=0.1), SPECS)
    ours, theirs = flatten(run(optimizer, PARAMS, rate=1e-2)[0]), flatten(run(plain, PARAMS, rate=3e-3)[0])
    for path in set(ours) - MATRICES:
        np.testing.assert_allclose(ours[path], theirs[path], rtol=1e-5, atol=1e-7, err_msg=path)
    assert not np.allclose(ours["blocks/dense/up"], theirs["blocks/dense/up"], atol=1e-4)


# -- on a mesh -----------------------------------------------------------------------------------------------------

MESH = {"fsdp": 4, "tensor": 2}
LAYERS = 11  # the eight devices do not divide them
STACK = {
    "q": ParamSpec((LAYERS, 16, 4, 4), ("layers", "embed", "heads", "head_dim"), ("embed",), ("heads", "head_dim")),
    "down": ParamSpec((LAYERS, 24, 16), ("layers", "mlp", "embed"), ("mlp",), ("embed",)),
    "expert_up": ParamSpec((3, 2, 16, 8), ("layers", "experts", "embed", "expert_mlp"), ("embed",), ("expert_mlp",)),
    "one": ParamSpec((1, 16, 8), ("layers", "embed", "mlp"), ("embed",), ("mlp",)),
}


@pytest.mark.parametrize(
    ("mesh", "config"),
    [(MESH, VARIANTS[0]), ({"fsdp": 2, "tensor": 2, "expert": 2}, VARIANTS[4])],
    ids=["matrices", "experts_heads_and_neurons"],
)
def test_a_mesh_gives_what_one_device_gives(mesh, config):
    devices = make_mesh(mesh)
    optimizer = make_optimizer(config, STACK)
    alone = last_updates(optimizer, specs=STACK)
    with jax.set_mesh(devices):
        split = last_updates(optimizer, param_shardings(STACK, devices), STACK)
    for path in STACK:
        np.testing.assert_allclose(split[path], alone[path], atol=1e-4, err_msg=path)


COLLECTIVE = re.compile(r"= (.+?) (all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter)(?:-start)?\(")
ARRAY = re.compile(r"\b[a-z]+\d+\[([\d,]*)\]")


def collectives(optimizer, specs):
    """Entries that each collective of the compiled update yields on a device, and its kind."""
    mesh = make_mesh(MESH)
    shardings = param_shardings(specs, mesh)
    shapes = map_specs(
        lambda path, s, where: jax.ShapeDtypeStruct(s.shape, jnp.float32, sharding=where), specs, shardings
    )
    with jax.set_mesh(mesh):
        of_state = optimizer.state_shardings(shardings)
        state = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            jax.eval_shape(optimizer.init, shapes),
            of_state,
        )
        step = jax.jit(optimizer.update, out_shardings=(shardings, of_state))
        text = step.lower(shapes, state, shapes).compile().as_text()
    found = []
    for line in text.splitlines():
        hit = COLLECTIVE.search(line)
        if hit:
            sizes = [math.prod(int(n) for n in dims.split(",") if n) for dims in ARRAY.findall(hit[1])]
            found.append((sum(sizes), hit[2]))
    return found


@pytest.mark.parametrize("name", list(STACK))
@pytest.mark.parametrize("config", [VARIANTS[0], VARIANTS[4]], ids=["plain", "heads_and_neurons"])
def test_no_collective_yields_more_than_one_matrix_beyond_a_devices_share(config, name):
    spec = STACK[name]
    matrix = math.prod(spec.shape[len(spec.pieces) :])
    found = collectives(make_optimizer(config, {name: spec}), {name: spec})
    assert any(kind == "all-to-all" for _, kind in found)
    assert max(size for size, _ in found) <= spec.size / 8 + matrix


@dataclasses.dataclass(frozen=True)
class Mapped(Optimizer):
    """optax's own Muon, mapped over the stack."""

    def core(self, specs):
        (spec,) = flatten(specs).values()
        rows = tuple(spec.axes.index(a) for a in spec.fan_in_axes)
        columns = tuple(spec.axes.index(a) for a in spec.fan_out_axes)
        numbers = jax.tree.map(lambda _: MuonDimensionNumbers(rows, columns), specs)
        return optax.contrib.scale_by_muon(weight_dimension_numbers=numbers)


@pytest.mark.parametrize("name", ["q", "down"])
def test_mapping_over_the_stack_gathers_it_and_would_be_seen(name):  # the proof above can fail
    spec = STACK[name]
    matrix = math.prod(spec.shape[1:])
    found = collectives(make_optimizer(Mapped(clip_norm=None), {name: spec}), {name: spec})
    assert max(size for size, _ in found) > spec.size / 8 + matrix


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "shapes"}, r"optimizer.scale is 'shapes'; known: rms, shape"),
        ({"newton_schulz_steps": 0}, "newton_schulz_steps is 0, it must be at least 1"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"learning_rate": 0.0, "adam_learning_rate": 1e-3}, "learning_rate .*is 0.0, it must be above 0"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(JaxptError, match=message):
        Muon(**options).check("optimizer")
