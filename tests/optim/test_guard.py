"""The rule of outliers against OLMo-core's written out in float64, and the state that it keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.optim.guard import CARRY, MEASURES, token_count
from jaxpt.optim.guards.finite import Finite
from jaxpt.optim.guards.observe import Observe
from jaxpt.optim.guards.skip import Skip

TRUE = jnp.asarray(True)


def judged(guard, rows, tokens=8):
    """What `guard` says of each of the rows of measures, and its last state."""
    judge = jax.jit(lambda state, m, i: guard.judge(state, m, TRUE, i, tokens))
    state, said = guard.init(), []
    for i, row in enumerate(rows):
        answer = judge(state, jnp.asarray(row, jnp.float32), jnp.uint32(i))
        state = answer.state
        said.append(answer)
    return said, state


def by_hand(rows, window, sigma):
    """Which steps are outliers: mean and Bessel's deviation of the last `window` finite values before each."""
    history, out = [], []
    for row in np.asarray(rows, np.float64):
        finite = np.isfinite(row).all()
        seen = np.array(history[-window:])
        high = len(seen) >= window // 2 and bool((row - seen.mean(0) > sigma * seen.std(0, ddof=1)).any())
        out.append(finite and high)
        if finite:
            history.append(row)
    return out


def made(count=120, window=16):
    rng = np.random.default_rng(3)
    rows = np.stack([3 - 0.01 * np.arange(count), 1 + rng.random(count), 2 + 0.1 * rng.random(count)], axis=1)
    rows[:, 0] += 0.02 * rng.random(count)
    rows[5] *= 50  # before the window is half full
    rows[40, 0] += 5
    rows[60:63, 1] += 30  # the spikes enter the window, so that what lasts is no outlier for long
    rows[90, 2] += 9
    rows[95, 1] -= 20  # one-sided
    rows[70, 0], rows[71, 1], rows[72, 2] = np.nan, np.inf, -np.inf
    return rows


def test_outliers_are_those_of_the_rule_in_float64():
    rows, guard = made(), Skip(window=16)
    said, state = judged(guard, rows)
    expected = by_hand(rows, 16, 6.0)
    finite = np.isfinite(rows).all(1)
    assert {40, 60, 90} <= set(np.flatnonzero(expected))
    assert not expected[95]
    assert [bool(s.flags["skipped"]) for s in said] == [bool(e) or not f for e, f in zip(expected, finite)]
    assert [bool(s.flags["finite"]) for s in said] == finite.tolist()
    assert np.isfinite(state["values"]).all()
    spikes = [i for i, (e, f) in enumerate(zip(expected, finite)) if e or not f]
    assert state["spiked_at"][: len(spikes)].tolist() == spikes[::-1]
    np.testing.assert_allclose(said[-1].metrics["spike_score"], len(spikes) / len(rows), rtol=1e-6)
    assert int(said[-1].metrics["not_finite"]) == 3
    assert token_count(state["skipped_tokens"]) == 8 * len(spikes)


def test_another_window_would_be_noticed():
    assert by_hand(made(), 16, 6.0) != by_hand(made(), 64, 6.0)


@pytest.mark.parametrize(
    ("guard", "skipped"), [(Observe(window=16), []), (Finite(window=16), [70, 71, 72]), (Skip(window=16), None)]
)
def test_each_guard_skips_what_it_says(guard, skipped):
    said, _ = judged(guard, made())
    now = [i for i, s in enumerate(said) if s.flags["skipped"]]
    if skipped is None:
        assert set(now) > {70, 71, 72}
    else:
        assert now == skipped
    assert all(bool(s.taken) == (i not in now) for i, s in enumerate(said))


def test_steps_in_a_row_that_are_not_finite_are_counted_until_one_is():
    said, _ = judged(Finite(window=16), made())
    assert [int(said[i].flags["in_a_row"]) for i in (69, 70, 71, 72, 73)] == [0, 1, 2, 3, 0]


def test_a_state_that_would_not_be_finite_counts_as_a_spike_though_the_measures_are():
    answer = Finite().judge(Finite().init(), jnp.ones(len(MEASURES)), ~TRUE, jnp.uint32(7), 8)
    assert bool(answer.flags["skipped"])
    assert int(answer.state["spiked_at"][0]) == 7
    assert int(answer.state["entries"]) == 0
    assert not np.asarray(answer.state["values"]).any()


def test_tokens_beyond_int32_are_counted_exactly():
    rows = np.full((9, 3), np.nan)
    _, state = judged(Finite(), rows, tokens=2**29 + 3)
    assert token_count(state["skipped_tokens"]) == 9 * (2**29 + 3) > 2**31
    assert (np.asarray(state["skipped_tokens"])[0] < 2**CARRY).all()


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        (Skip(window=3), r"config.guard.window is 3, it must be at least 4"),
        (Skip(sigma=0.0), r"config.guard.sigma is 0.0, it must be above 0"),
        (Finite(patience=0), r"config.guard.patience is 0, it must be at least 1"),
    ],
)
def test_an_option_out_of_range_is_one_line(guard, message):
    with pytest.raises(JaxptError, match=message):
        guard.check("config.guard")
