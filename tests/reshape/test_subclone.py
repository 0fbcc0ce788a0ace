"""Subcloning: identity at full size, one residual index set, exact counts, ledger, refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.models import Model, RopeConfig, flatten, init_params, param_specs
from jaxpt.models.rope import inverse_frequencies
from jaxpt.models.size import flops_per_token, param_count
from jaxpt.reshape.apply import apply
from jaxpt.reshape.axes import mask
from jaxpt.reshape.calibrate import activation_scores
from jaxpt.reshape.datafree import weight_scores
from jaxpt.reshape.merge import merge_kv
from jaxpt.reshape.ops import Take
from jaxpt.reshape.stream import InMemory, Reshaped, gather
from jaxpt.reshape.subclone import random_init, subclone, subclone_plan
from jaxpt.reshape.target import lengths
from tests.models.tiny import DENSE, VARIANTS
from tests.reshape.proofs import batches, close, logits, random_params, reshaped

SMALL = {"layers": 2, "embed": 12, "heads": 2, "kv_heads": 1, "mlp": 10}


def scored(name):
    c = VARIANTS[name]
    p = random_params(c)
    return c, p, weight_scores(InMemory(c, p))


@pytest.mark.parametrize("name", VARIANTS)
def test_subcloning_to_full_size_is_the_identity(name):
    c, p, s = scored(name)
    for scaling in ("none", "fan_in"):
        plan = subclone_plan(c, {}, s, scaling=scaling)
        assert plan.target == c
        jax.tree.map(np.testing.assert_array_equal, apply(plan, p), p)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("selection", ["importance", "uniform"])
def test_a_cut_has_the_shapes_of_its_config_and_runs(name, selection):
    c, p, s = scored(name)
    plan = subclone_plan(c, SMALL, s, selection=selection)
    out = apply(plan, p)
    assert {k: v.shape for k, v in flatten(out).items()} == {k: v.shape for k, v in plan.specs.items()}
    assert param_count(plan.target) == sum(a.size for a in jax.tree.leaves(out))
    assert (plan.target.embed, plan.target.heads, plan.target.kv_heads) == (12, 2, 1)
    assert np.isfinite(logits(plan.target, out)).all()


def test_parameter_count_after_a_cut_is_the_closed_form():
    c, _, s = scored("llama")
    t = subclone_plan(c, SMALL, s).target
    d, f, h, k, hd, layers = 12, 10, 2, 1, 8, 2
    assert param_count(t) == 2 * 61 * d + d + layers * (2 * d + d * hd * (2 * h + 2 * k) + 3 * d * f)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_on_the_residual_stream_keeps_one_index_set(name):
    c, _, s = scored(name)
    plan = subclone_plan(c, SMALL, s)
    sets = {
        path: op.index.tobytes()
        for path, rule in plan.rules.items()
        for op in rule[0].ops
        if isinstance(op, Take) and op.index.shape == (12,)
    }
    assert len(set(sets.values())) == 1
    assert set(sets) == {path for path, spec in plan.specs.items() if "embed" in spec.axes}


def test_one_parameter_with_another_index_set_breaks_the_function():  # the proof above can fail
    """The cut model computes what masking the channels left out does, until one parameter keeps others."""
    c, p, s = scored("llama")
    plan = subclone_plan(c, {"embed": 16}, s)
    masked = reshaped(mask(c, "embed", np.sort(np.argsort(-s.get("embed"), kind="stable")[:16])), p)
    close(reshaped(plan, p), masked)
    for path in ("embed/table", "blocks/dense/o", "blocks/dense/up", "final_norm", "head"):
        (term,) = plan.rules[path]
        ops = tuple(dataclasses.replace(o, index=np.roll(o.index, 1)) if isinstance(o, Take) else o for o in term.ops)
        broken = dataclasses.replace(plan, rules={**plan.rules, path: (dataclasses.replace(term, ops=ops),)})
        assert not np.allclose(reshaped(broken, p), masked, atol=1e-2), path


@pytest.mark.parametrize("name", DENSE)
def test_query_heads_stay_with_their_kv_head(name):
    c, p, s = scored(name)
    plan = subclone_plan(c, {"kv_heads": 1, "heads": 2}, s)
    for kind in {layer.ffn for layer in c.layers}:
        q, k = (
            next(op for op in plan.rules[f"blocks/{kind}/{n}"][0].ops if isinstance(op, Take)).index for n in ("q", "k")
        )
        np.testing.assert_array_equal(q // c.group, np.repeat(k, 2, axis=1))
        np.testing.assert_array_equal(k[:, 0], s.get("kv_heads").argmax(1)[list(c.layers_of(kind))])
    del p


def test_scaling_is_the_root_of_the_fan_in_ratio_and_can_be_switched():
    c, p, s = scored("llama")
    plain = flatten(apply(subclone_plan(c, SMALL, s), p))
    all_in = flatten(apply(subclone_plan(c, SMALL, s, scaling="fan_in"), p))
    writers = flatten(apply(subclone_plan(c, SMALL, s, scaling="writers"), p))
    ratio = {k: float((all_in[k] / plain[k]).mean()) for k in plain}
    d, f, h = 2**0.5, 4**0.5, 3**0.5
    want = {"q": d, "k": d, "v": d, "gate": d, "up": d, "down": f, "o": h, "attn_norm": 1, "mlp_norm": 1}
    for name, value in want.items():
        np.testing.assert_allclose(ratio[f"blocks/dense/{name}"], value, rtol=1e-5)
    np.testing.assert_allclose([ratio["embed/table"], ratio["final_norm"], ratio["head"]], [1, 1, d], rtol=1e-5)
    np.testing.assert_allclose(writers["blocks/dense/o"], all_in["blocks/dense/o"])
    np.testing.assert_array_equal(writers["blocks/dense/q"], plain["blocks/dense/q"])


def test_the_random_baseline_is_a_fresh_model_of_the_target_shape():
    c = VARIANTS["qwen3"]
    p = random_params(c)
    plan = random_init(c, SMALL, seed=5)
    want = jax.tree.map(np.asarray, init_params(plan.target, 5))
    jax.tree.map(np.testing.assert_array_equal, apply(plan, p), want)
    jax.tree.map(np.testing.assert_array_equal, gather(Reshaped(InMemory(c, p), plan)), want)


@pytest.mark.parametrize("name", ["llama", "tied", "qwen3"])
def test_streaming_slice_by_slice_gives_the_same_bits(name):
    c, p, s = scored(name)
    p = jax.tree.map(lambda a: a.astype(jnp.bfloat16), p)
    plan = subclone_plan(c, SMALL, s, scaling="fan_in")
    whole, streamed = apply(plan, p), gather(Reshaped(InMemory(c, p), plan))
    jax.tree.map(np.testing.assert_array_equal, streamed, whole)
    assert all(a.dtype == jnp.bfloat16 for a in jax.tree.leaves(streamed))


@pytest.mark.parametrize("name", DENSE)
def test_cutting_channels_that_are_zero_keeps_the_function(name):
    """A model that uses 16 of 24 channels and 9 of 40 neurons, found by its scores."""
    from jaxpt.reshape.axes import mask

    c = VARIANTS[name]
    p = random_params(c)
    for axis, keep in (("embed", np.arange(3, 19)), ("mlp", np.arange(30, 39))):
        m = mask(c, axis, keep)
        c, p = m.target, apply(m, p)
    b = batches(c)
    for scores in (weight_scores(InMemory(c, p)), activation_scores(InMemory(c, p), b, data="test")):
        plan = subclone_plan(c, {"mlp": 9}, scores)
        close(reshaped(plan, p), logits(c, p))
        kept = plan.rules["blocks/dense/down"][0].ops[0].index
        np.testing.assert_array_equal(kept, np.broadcast_to(np.arange(30, 39), kept.shape))


def test_a_cut_to_half_the_head_keeps_the_frequencies_the_smaller_head_has_by_formula():
    c, _, s = scored("qwen3")
    t = subclone_plan(c, {"head_dim": 4}, s).target
    assert t.rope.inv_freq is None  # stride 2: theta ** (-2j / 4) are pairs 0 and 2 of 4
    odd = subclone_plan(c, {"head_dim": 6}, s).target
    full, _ = inverse_frequencies(c.rope, 8)
    np.testing.assert_allclose(odd.rope.inv_freq, full[[0, 1, 2]], rtol=1e-6)


@pytest.mark.parametrize("name", DENSE)
def test_heads_whose_other_dimensions_are_zero_can_be_cut_down(name):
    c = VARIANTS[name]
    if c.qk_norm == "full":
        pytest.skip("a norm across heads counts the removed zeros")
    p = flatten(random_params(c))
    pairs = [0, 2, 4, 6]
    on = np.isin(np.arange(8), pairs).astype(np.float32)
    dims = np.array([1, 3, 4, 5])
    used = np.isin(np.arange(8), dims).astype(np.float32)
    for path, spec in flatten(param_specs(c)).items():
        if "head_dim" in spec.axes and not spec.gain:
            mask = on if spec.rotary else used
            at = [1] * len(spec.shape)
            at[spec.axes.index("head_dim")] = 8
            p[path] = p[path] * mask.reshape(at)
    from jaxpt.models import unflatten

    p = unflatten(p)
    # scale and eps as the smaller head's norm needs them
    c = c.replace(attention_scale=c.scale, qk_norm_eps=c.qk_norm_eps or c.norm_eps)
    plan = subclone_plan(c, {"head_dim": 4}, weight_scores(InMemory(c, p)))
    if c.qk_norm == "head":
        fixed = plan.target.replace(qk_norm_eps=c.qk_norm_eps * 2)
        out = flatten(apply(plan, p))
        # the mean square over 4 dimensions is twice that over 8 with zeros, and the smaller head is divided by its root
        out = {k: v * np.float32(2**0.5) if k.endswith(("q_norm", "k_norm")) else v for k, v in out.items()}
        close(logits(fixed, unflatten(out)), logits(c, p))
    else:
        close(reshaped(plan, p), logits(c, p))


@pytest.mark.parametrize("name", [n for n in VARIANTS if n != "gemma2"])
def test_merging_equal_kv_heads_keeps_the_function_and_different_ones_do_not(name):
    from jaxpt.reshape.axes import AxisMap, plan_axes

    c = VARIANTS[name]
    p = random_params(c)
    split = plan_axes(c, {"kv_heads": AxisMap(np.array([[0, 0]] * len(c.layers)))})  # both kv heads the same
    c2, p2 = split.target, apply(split, p)
    s = weight_scores(InMemory(c2, p2))
    if c.qk_norm != "full":
        for plan in (merge_kv(c2, 1), merge_kv(c2, 1, how="select", scores=s)):
            assert (plan.target.kv_heads, plan.target.heads) == (1, 6)
            close(reshaped(plan, p2), logits(c2, p2))
    assert not np.allclose(reshaped(merge_kv(c, 1), p), logits(c, p), atol=1e-2)


def test_the_entry_says_what_was_kept_and_what_it_cost():
    c, p, _ = scored("llama")
    s = activation_scores(InMemory(c, p), batches(c), data={"source": "abc"})
    entry = subclone_plan(c, SMALL, s).entry
    assert entry["tokens"] == s.meta["tokens"] == 2 * 2 * 12
    assert entry["flops"] == pytest.approx(48 * flops_per_token(c, 12, backward=False))
    assert entry["scores"]["data"] == {"source": "abc"}
    assert entry["options"]["target"]["embed"] == 12
    assert entry["indices"] == subclone_plan(c, SMALL, s).entry["indices"]
    other = subclone_plan(c, {**SMALL, "mlp": 11}, s).entry["indices"]
    assert other["embed"] == entry["indices"]["embed"]
    assert other["mlp"] != entry["indices"]["mlp"]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"embed": 25}, r"target\.embed is 25, larger than the source's 24"),
        ({"layers": 4}, r"target\.layers is 4, larger than the source's 3"),
        ({"heads": 5}, r"target\.heads is 5, not a multiple of target\.kv_heads \(2\); try 4"),
        ({"heads": 6, "kv_heads": 1}, r"more per kv head than the source's 3"),
        ({"head_dim": 5}, r"target\.head_dim is 5; RoPE rotates pairs"),
        ({"mlp": 0}, r"target\.mlp is 0"),
        ({"activation": "gelu"}, r"target\.activation is 'gelu', the source has 'silu'"),
        ({"qk_norm": "head"}, r"target\.qk_norm is 'head'"),
        ({"rope": RopeConfig(theta=5.0)}, r"target\.rope is"),
        ({"norm_position": "post"}, r"target\.norm_position"),
        ({"embedd": 8}, r"target\.embedd is not a length \(did you mean 'embed'\?\)"),
    ],
)
def test_impossible_targets_are_refused_by_name(target, said):
    with pytest.raises(JaxptError, match=said):
        lengths(VARIANTS["llama"], target)


def test_importance_without_scores_and_scores_of_another_model_are_refused():
    c, _, s = scored("llama")
    with pytest.raises(JaxptError, match="needs scores"):
        subclone_plan(c, SMALL)
    with pytest.raises(JaxptError, match="made for another model"):
        subclone_plan(dataclasses.replace(c, mlp=80), SMALL, s)
    with pytest.raises(JaxptError, match="did you mean 'fan_in'"):
        subclone_plan(c, SMALL, s, scaling="fanin")


def test_scores_that_are_no_numbers_are_refused_instead_of_keeping_the_first_positions():
    c, _, s = scored("llama")
    s.values["mlp"][1, 5] = np.nan
    with pytest.raises(JaxptError, match=r"scores\.mlp\[1, 5\] is nan"):
        subclone_plan(c, SMALL, s)


def test_a_notebook_cuts_a_model_in_one_call_and_its_lineage_grows():
    c, p, s = scored("tied")
    model = Model(c, p, "tokenizer", ({"op": "import"},))
    small = subclone(model, {"mlp": 10, "layers": 2})
    assert [e["op"] for e in small.lineage] == ["import", "subclone"]
    assert small.tokenizer == "tokenizer"
    plan = subclone_plan(c, {"mlp": 10, "layers": 2}, s)
    assert small.config == plan.target
    jax.tree.map(np.testing.assert_array_equal, small.params, apply(plan, p))
