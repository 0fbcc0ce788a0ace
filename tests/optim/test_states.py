"""Names and axes of optimizer states: for rules by entry, by factor, by block, by label; ambiguity is an error."""

import shutil
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxpt.errors import JaxptError
from jaxpt.models.size import param_count
from jaxpt.models.specs import ParamSpec, flatten
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizer import Optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.optim.state_axes import infer_axes
from jaxpt.sharding import make_mesh, param_shardings
from jaxpt.training.run_plan import check_disk
from tests.optim.made import MODEL, SPECS, Blocks, Factored, Flat, Mixed, draw, run

PARAMS = draw(0, size=0.1)


def axes(config, name):
    return {path: spec.axes for path, spec in flatten(make_optimizer(config, SPECS).state_specs[name]).items()}


def test_moments_have_the_axes_of_their_parameters():
    specs = make_optimizer(AdamW(), SPECS).state_specs
    for path, spec in flatten(specs["mu"]).items():
        assert (spec.shape, spec.axes) == (flatten(SPECS)[path].shape, flatten(SPECS)[path].axes)
    assert (specs["count"].shape, specs["count"].axes, specs["count"].dtype) == ((), (), jnp.int32)


def test_factored_rows_and_columns_have_the_axes_that_are_left():
    rows, columns = axes(Factored(), "v_row"), axes(Factored(), "v_col")
    assert rows["blocks/moe/expert_down"] == ("layers", "experts", "embed")
    assert columns["blocks/moe/expert_down"] == ("layers", "experts", "expert_mlp")
    assert {rows["blocks/dense/q"], columns["blocks/dense/q"]} == {
        ("layers", "heads", "head_dim"),
        ("layers", "embed", "heads"),
    }
    assert axes(Factored(), "v")["blocks/dense/k_bias"] == ("layers", "kv_heads", "head_dim")
    assert axes(Factored(), "v")["blocks/dense/q"] == ("layers", None)  # the placeholder of length 1


@pytest.mark.parametrize("shape", [(5, 5), (5, 6), (6, 5), (4, 8), (127, 128), (8, 8, 8), (8, 7, 6), (4, 4, 9)])
@pytest.mark.parametrize("smallest", [2, 128])
def test_axes_are_inferred_also_where_lengths_are_equal_or_near_a_threshold(shape, smallest):
    spec = ParamSpec(shape, ("a", "b", "c")[: len(shape)])
    core = optax.scale_by_factored_rms(min_dim_size_to_factor=smallest)

    def shapes(spec):
        return [x.shape for x in jax.tree.leaves(jax.eval_shape(core.init, [jnp.zeros(spec.shape)]))]

    _, *inferred = infer_axes(shapes, spec)
    if smallest == 2:  # what is left out is one axis each; rows and columns share the others
        left_out = [set(spec.axes) - set(a) for a in inferred[:2]]
        assert [len(x) for x in left_out] == [1, 1]
        assert left_out[0] != left_out[1]
        assert all(n == shape[spec.axes.index(a)] for n, a in zip(shapes(spec)[1], inferred[0]))
    elif min(shape) < 128:
        assert inferred[2] == spec.axes


def test_block_factors_and_scalars_of_a_parameter_are_stacked_as_it_is():
    factors, scale = axes(Blocks(), "factors"), axes(Blocks(), "scale")
    assert factors["blocks/moe/expert_up"] == ("layers", "experts", "embed", None, None)
    assert factors["embed/table"] == ("vocab", None, None)
    assert scale["blocks/moe/expert_up"] == ("layers", "experts")
    assert scale["head"] == ()


def test_axes_that_shapes_do_not_show_are_an_error_until_the_optimizer_says_them():
    with pytest.raises(JaxptError, match=r"state vector .*cannot be inferred.*state_axes") as error:
        make_optimizer(Flat(), SPECS)
    assert "\n" not in str(error.value)
    assert axes(Flat(said=True), "vector")["blocks/moe/q"] == ("layers", None)


def test_axes_that_an_optimizer_states_wrongly_are_an_error():
    @dataclass(frozen=True)
    class Wrong(AdamW):
        def state_axes(self, name, spec):
            return ("embed",) * 4

    with pytest.raises(JaxptError, match=r"state_axes gives mu of embed/table the axes"):
        make_optimizer(Wrong(), SPECS)


def optimizer_of(core):
    @dataclass(frozen=True)
    class Made(Optimizer):
        def core(self, specs):
            return core

    return make_optimizer(Made(), SPECS)


def test_a_state_does_not_depend_on_its_place_in_a_chain():
    momentum, adam = optax.trace(0.9), optax.scale_by_adam()
    nested = optax.chain(optax.identity(), optax.chain(optax.clip(1.0), optax.masked(adam, True)))
    one = optimizer_of(optax.chain(momentum, nested)).state_specs
    two = optimizer_of(optax.chain(adam, momentum)).state_specs
    assert one == two
    assert set(one) == {"trace", "count", "mu", "nu"}


def test_states_of_one_name_are_called_by_their_class_too():
    chain = optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(lambda step: 1.0 / (step + 1)))
    names = set(optimizer_of(chain).state_specs)
    assert names == {"ScaleByAdamState_count", "ScaleByScheduleState_count", "mu", "nu"}


def test_states_that_cannot_be_told_apart_are_an_error():
    with pytest.raises(JaxptError, match="two states that are called TraceState_trace"):
        optimizer_of(optax.chain(optax.trace(0.9), optax.trace(0.5)))


def test_two_chains_for_different_parameters_share_the_names_of_their_moments():
    optimizer = make_optimizer(Mixed(), SPECS)
    assert set(optimizer.state_specs) == {"sign_count", "adam_count", "mu", "nu"}
    assert set(flatten(optimizer.state_specs["mu"])) == set(flatten(SPECS))
    adam = {p for p, s in flatten(SPECS).items() if len(s.shape) - len(s.pieces) != 2}
    assert set(flatten(optimizer.state_specs["nu"])) == adam


def test_a_state_without_a_name_is_an_error():
    bare = optax.GradientTransformation(lambda params: jnp.zeros(3), lambda g, s, p=None: (g, s))
    with pytest.raises(JaxptError, match=r"holds an array at .* that has no name"):
        optimizer_of(bare)


class Total(NamedTuple):
    """One number for all parameters, which it cannot be."""

    total: jax.Array


def test_one_number_for_all_that_depends_on_a_gradient_is_an_error():
    def update(grads, state, params=None):
        return grads, Total(state.total + sum(jnp.sum(g * g) for g in jax.tree.leaves(grads)))

    with pytest.raises(JaxptError, match=r"total: a state that is one for all parameters depends on a gradient"):
        optimizer_of(optax.GradientTransformation(lambda params: Total(jnp.zeros(())), update))


def test_a_named_array_that_belongs_to_no_parameter_is_kept_whole():
    class Key(NamedTuple):
        key: jax.Array

    def update(grads, state, params=None):
        return grads, Key(state.key + 1)

    start = lambda params: Key(jnp.zeros(2, jnp.uint32))  # noqa: E731
    optimizer = optimizer_of(optax.GradientTransformation(start, update))
    assert optimizer.state_specs["key"].axes == (None,)
    assert run(optimizer, PARAMS, 3)[1]["key"].tolist() == [3, 3]


@pytest.mark.parametrize("config", [AdamW(), Factored(), Blocks(), Mixed()], ids=lambda c: type(c).__name__)
def test_states_are_what_their_specs_say(config):
    optimizer = make_optimizer(config, SPECS)
    for state in (jax.eval_shape(optimizer.init, PARAMS), run(optimizer, PARAMS, 1)[1]):
        leaves, specs = flatten(state), flatten(optimizer.state_specs)
        assert leaves.keys() == specs.keys()
        assert all((leaves[k].shape, leaves[k].dtype) == (s.shape, s.dtype) for k, s in specs.items())
    assert optimizer.state_bytes == sum(x.nbytes for x in jax.tree.leaves(run(optimizer, PARAMS, 1)[1]))


MESH = {"data": 1, "fsdp": 2, "tensor": 2, "expert": 2}


def on_mesh(config, steps=3):
    mesh = make_mesh(MESH, jax.devices()[:8])
    optimizer = make_optimizer(config, SPECS)
    params = param_shardings(SPECS, mesh)
    state = optimizer.state_shardings(params)
    update = jax.jit(optimizer.update, in_shardings=(params, state, params), out_shardings=(params, state))
    values, kept = jax.device_put(PARAMS, params), jax.jit(optimizer.init, out_shardings=state)(PARAMS)
    for i in range(steps):
        updates, kept = update(jax.device_put(draw(100 + i), params), kept, values)
        values = jax.device_put(jax.tree.map(lambda p, u: p - 1e-2 * u, values, updates), params)
    return values, kept


@pytest.mark.parametrize("config", [AdamW(), Factored(), Blocks()], ids=lambda c: type(c).__name__)
def test_eight_devices_take_the_steps_of_one(config):
    sharded, state = on_mesh(config)
    one, of_one = run(make_optimizer(config, SPECS), PARAMS, 3)
    for ours, theirs in ((sharded, one), (state, of_one)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), ours, theirs)


def test_every_state_lies_by_its_axes():
    mesh = make_mesh(MESH, jax.devices()[:8])
    params = param_shardings(SPECS, mesh)
    moments = make_optimizer(AdamW(), SPECS).state_shardings(params)
    assert moments["mu"] == moments["nu"] == params
    assert moments["count"] == NamedSharding(mesh, PartitionSpec())
    rows = make_optimizer(Factored(), SPECS).state_shardings(params)
    assert rows["v_row"]["blocks"]["moe"]["expert_down"].spec == PartitionSpec(None, "expert", "fsdp")
    assert rows["v_col"]["blocks"]["moe"]["expert_down"].spec == PartitionSpec(None, "expert", "tensor")
    blocks = make_optimizer(Blocks(), SPECS).state_shardings(params)
    assert blocks["factors"]["blocks"]["moe"]["expert_up"].spec == PartitionSpec(None, "expert", "fsdp")
    assert blocks["scale"]["blocks"]["moe"]["expert_up"].spec == PartitionSpec(None, "expert")
    _, state = on_mesh(Factored(), 1)
    leaf = state["v_row"]["blocks"]["moe"]["expert_down"]
    assert leaf.addressable_shards[0].data.size == leaf.size // 4


def test_the_second_dimension_of_a_square_factor_stays_whole():
    class Square(NamedTuple):
        square: optax.Updates

    init = lambda params: Square(jax.tree.map(lambda p: jnp.zeros((p.shape[0],) * 2), params))  # noqa: E731
    optimizer = optimizer_of(optax.GradientTransformation(init, lambda g, s, p=None: (g, s)))
    assert optimizer.state_specs["square"]["head"].axes == ("embed", "embed")
    where = optimizer.state_shardings(param_shardings(SPECS, make_mesh(MESH, jax.devices()[:8])))
    assert where["square"]["head"].spec == PartitionSpec("fsdp")


def test_the_disk_must_hold_the_state_that_the_optimizer_has(tmp_path, monkeypatch):
    count = param_count(MODEL)
    free = 4 * count * 3 * 2  # two checkpoints of parameters and two moments, without the count of steps
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(JaxptError, match="2 checkpoints take"):
        check_disk(tmp_path, MODEL, make_optimizer(AdamW(), SPECS), 1)
    check_disk(tmp_path, MODEL, make_optimizer(Factored(), SPECS), 1)
