"""The loss per token is written once, and is minus the log-probability of the target."""

import ast
from pathlib import Path

import jax
import numpy as np

from jaxpt.kernels.cross_entropy import from_logits

ROOT = Path(__file__).resolve().parents[2]
WHERE_ELSE = {
    "jaxpt/models/routing.py",  # of router logits, no tokens
    "jaxpt/objectives/balance.py",
    "jaxpt/kernels/divergence.py",  # of whole distributions
    "jaxpt/kernels/sparse_targets.py",  # of a teacher's
    "jaxpt/generation/passes.py",  # of several continuations at one position
    "jaxpt/generation/slots.py",  # of whole distributions, of which the likeliest are reported
    "jaxpt/objectives/from_cache.py",  # of the student's at a temperature
}


def calls(path: Path) -> set[str]:
    return {
        ast.unparse(n.func).split(".")[-1] for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)
    }


def users(root: Path) -> set[str]:
    """Files that normalise logits by themselves."""
    return {
        str(path.relative_to(root))
        for package in ("jaxpt", "data_tools")
        for path in (root / package).rglob("*.py")
        if calls(path) & {"log_softmax", "logsumexp"}
    }


def test_the_loss_of_a_token_is_minus_the_log_of_its_probability():
    logits = jax.random.normal(jax.random.key(0), (2, 5, 11)) * 4
    targets = jax.random.randint(jax.random.key(1), (2, 5), 0, 11)
    nll, lse = from_logits(logits, targets)
    exp = np.exp(np.asarray(logits, np.float64))
    picked = np.take_along_axis(exp, np.asarray(targets)[..., None], -1)[..., 0]
    np.testing.assert_allclose(nll, -np.log(picked / exp.sum(-1)), rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(lse, np.log(exp.sum(-1)), rtol=2e-6)


def test_the_loss_per_token_is_written_in_one_file():
    assert users(ROOT) - WHERE_ELSE == {"jaxpt/kernels/cross_entropy.py"}


def test_a_second_one_would_be_noticed(tmp_path):
    (tmp_path / "jaxpt").mkdir()
    (tmp_path / "jaxpt/mine.py").write_text("def f(x):\n    return jax.nn.log_softmax(x)\n")
    assert users(tmp_path) == {"jaxpt/mine.py"}
