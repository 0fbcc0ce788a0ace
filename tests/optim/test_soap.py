"""SOAP: the numbers of its authors' own code, its state's axes, what is not turned."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.models.specs import ParamSpec, flatten
from jaxpt.optim.chain import descend, make_optimizer
from jaxpt.optim.optimizers.soap import Soap
from tests.optim.made import SPECS, draw

# 14 steps at rate 0.01 and decay 0.1 of nikhilvyas/SOAP at a1e5535 (torch, CPU) on gradients RandomState(i)
REFERENCE = json.loads((Path(__file__).parent / "soap_reference.json").read_text())
OPTIONS = {
    "square": {},
    "rows_only": {"largest": 8},
    "normalized": {"normalize": True},
    "vector": {},
    "every_step": {"every": 1, "beta1": 0.9, "beta2": 0.8},
}


def drawn(shape, seed):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def after(name, **changes):
    shape = tuple(REFERENCE[name]["shape"])
    fan = {"fan_in_axes": ("embed",), "fan_out_axes": ("mlp",)} if len(shape) == 2 else {}
    spec = ParamSpec(shape, ("embed", "mlp")[: len(shape)], **fan)
    config = Soap(**{"clip_norm": None, "weight_decay": 0.0, "every": 4, **OPTIONS[name], **changes})
    optimizer = make_optimizer(config, {"w": spec})
    params = {"w": jnp.asarray(drawn(shape, 1000) * 0.1)}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for i in range(14):
        updates, state = update({"w": drawn(shape, i)}, state, params)
        params = descend(params, updates, jnp.float32(0.01), optimizer.lr_mult)
        if i:  # the reference decays after the step, and not in the first, which it leaves out
            params = {"w": params["w"] * (1 - 0.01 * 0.1)}
    return params["w"]


@pytest.mark.parametrize("name", list(OPTIONS))
def test_it_moves_a_matrix_as_the_authors_code_does(name):
    np.testing.assert_allclose(after(name), REFERENCE[name]["after"], atol=2e-5)


def test_another_interval_or_another_basis_would_be_seen():  # the proof above can fail
    for changes in ({"every": 5}, {"largest": 1}, {"gram_beta": 0.8}):
        assert not np.allclose(after("square", **changes), REFERENCE["square"]["after"], atol=1e-3), changes


def decompositions(jaxpr):
    """The dimensions of all that is decomposed in a program and in what it calls."""
    out = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("eigh", "geqrf", "householder_product", "qr"):
            out.append(eqn.invars[0].aval.ndim)
        out += [n for inner in jax.core.jaxprs_in_params(eqn.params) for n in decompositions(inner)]
    return out


def test_stacks_are_decomposed_matrix_by_matrix():
    """A batch waits for the threads of the pool that it runs on: two at once on two threads never end."""
    optimizer = make_optimizer(Soap(), SPECS)
    params = draw(0)
    program = jax.make_jaxpr(optimizer.update)(params, optimizer.init(params), params).jaxpr
    found = decompositions(program)
    assert len(found) > 20
    assert set(found) == {2}
    batched = jax.make_jaxpr(jax.vmap(lambda x: jnp.linalg.qr(x)[0]))(jnp.ones((3, 4, 4))).jaxpr
    assert 3 in decompositions(batched)  # what the test would see


def test_its_state_has_the_axes_of_rows_and_columns():
    specs = make_optimizer(Soap(largest=12), SPECS).state_specs
    axes = {name: {p: s.axes for p, s in flatten(tree).items()} for name, tree in specs.items() if name != "steps"}
    assert axes["basis_columns"]["blocks/moe/expert_down"] == ("layers", "experts", "embed", "embed")
    assert axes["gram_columns"]["blocks/dense/o"] == ("layers", "embed", "embed")
    assert axes["turned"]["blocks/dense/q"] == ("layers", "embed", "heads")
    assert "blocks/dense/q" not in axes["gram_columns"], "16 columns are more than 12"
    assert axes["gram_columns"]["embed/table"] == ("embed", "embed")
    assert "embed/table" not in axes["gram_rows"], "a vocabulary of 16 is more than 12"
    assert axes["turned"]["blocks/dense/q_bias"] == ("layers", "heads", "head_dim")
    assert all("blocks/dense/attn_norm" not in axes[name] for name in axes if "gram" in name)


def test_options_out_of_range_are_named():
    with pytest.raises(JaxptError, match=r"optimizer.every is 0, it must be at least 1"):
        Soap(every=0).check("optimizer")
