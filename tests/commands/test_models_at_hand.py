"""load, save and forward as a notebook uses them; generate, inspect and report as a person does."""

import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxpt
from jaxpt import cli
from jaxpt.errors import JaxptError
from jaxpt.tokenizers import train_sentencepiece
from tests.interop.made import hf_directory
from tests.models.tiny import config, random_params

TEXT = ["the quick brown fox", "jumps over the lazy dog", "def f(x):\n    return x + 1\n"] * 40


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("b")
    tokenizer = train_sentencepiece(TEXT, folder / "t" / "tokenizer.model", 300)
    c = config(vocab_size=tokenizer.vocab_size)
    model = jaxpt.Model(c, random_params(c), tokenizer, ({"op": "made", "tokens": 7},))
    jaxpt.save(model, folder / "bundle")
    return folder / "bundle"


def run(capsys, *argv):
    code = cli.main([str(a) for a in argv])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_five_lines_of_a_notebook(bundle, tmp_path):
    model = jaxpt.load(bundle)
    ids = model.tokenizer.encode("the quick", bos=True)
    logits = jaxpt.forward(model.config, model.params, jnp.array([ids]))
    assert logits.shape == (1, len(ids), model.config.vocab_size)
    assert model.axes["blocks/dense/down"] == ("layers", "mlp", "embed")
    again = jaxpt.load(jaxpt.save(model, tmp_path / "copy"))
    np.testing.assert_array_equal(jaxpt.forward(again.config, again.params, jnp.array([ids])), logits)
    assert again.lineage == model.lineage
    assert again.tokenizer.fingerprint == model.tokenizer.fingerprint


def test_importing_jaxpt_starts_nothing():
    program = "import sys, jaxpt; assert 'jax' not in sys.modules; assert 'load' in dir(jaxpt)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).resolve().parents[2])
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        jaxpt.laod  # noqa: B018


def test_generate_prints_the_prompt_and_what_follows(bundle, capsys):
    options = ("--temperature=0", "--max_new_tokens=8")
    code, out, _ = run(capsys, "generate", f"--model={bundle}", "--prompt=the quick", *options)
    assert code == 0
    assert out.startswith("the quick")
    assert run(capsys, "generate", f"--model={bundle}", "--prompt=the quick", *options)[1] == out


def test_inspect_says_what_it_found(bundle, capsys):
    code, out, _ = run(capsys, "inspect", bundle, "--mesh=fsdp=4,tensor=2")
    assert code == 0
    for printed in (
        "bundle",
        "blocks/dense/q",
        "3 × 24 × 6 × 8",
        "layers embed heads head_dim",
        "- fsdp tensor",
        "made",
    ):
        assert printed in out, printed


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ("generate", "--model=nowhere", "--prompt=x"),
            "nowhere does not exist in",
        ),
        (("generate", "--model={bundle}", "--prompt=x", "--top_p=2"), "--top_p=2.0 must be above 0"),
        (("generate", "--model={bundle}", "--prompt=x", "--dtype=float23"), "did you mean 'float32'"),
        (("inspect", "{bundle}/params"), "is not a bundle"),
        (("inspect", "{bundle}", "--mesh=fsdp"), "--mesh=fsdp is not of the form"),
        (
            ("generate", "--model={bundle}", "--prompt=x", "--max_new_tokens=-1"),
            "--max_new_tokens=-1 must be at least 1",
        ),
        (("inspect", "{bundle}", "--mesh=fsdp=0"), "--mesh=fsdp=0: fsdp is 0, it must be at least 1"),
        (("inspect", "{bundle}", "--mesh=context=2"), "context is 2: context parallelism is not built yet"),
        (("inspect", "{bundle}", "--mesh=fsdp=-1"), "give every length"),
        (("inspect", "{bundle}", "--mesh=fdsp=2"), "did you mean 'fsdp'?"),
        (("inspect", "{bundle}", "--mesh=fsdp=5"), "is not divided by the mesh axis 'fsdp'"),
        (("report", "--workdir={bundle}"), "jaxpt report: {bundle} is not a run directory"),
    ],
)
def test_mistakes_are_one_line(bundle, capsys, argv, message):
    code, _, err = run(capsys, *(a.format(bundle=bundle) for a in argv))
    assert code == 1
    assert message.format(bundle=bundle) in err
    assert err.count("\n") == 1


def test_saving_where_something_is_is_refused(bundle):
    with pytest.raises(JaxptError, match="exists; remove it"):
        jaxpt.save(jaxpt.load(bundle), bundle)


def test_a_hugging_face_directory_keeps_no_lineage_and_is_not_called_random(tmp_path, capsys):
    out = run(capsys, "inspect", hf_directory(tmp_path))[1]
    assert "lineage: not known, a Hugging Face directory keeps none; jaxpt import begins one" in out
    assert "random" not in out


def test_a_model_without_lineage_is_not_called_random(tmp_path, capsys):
    c = config()
    jaxpt.save(jaxpt.Model(c, random_params(c)), tmp_path / "b")
    out = run(capsys, "inspect", tmp_path / "b")[1]
    assert "lineage: none, nothing was recorded of where these parameters come from" in out


def test_generation_past_the_model_s_positions_says_so_once(bundle, capsys):
    argv = ("generate", f"--model={bundle}", "--prompt=the quick", "--temperature=0", "--no_bos")
    code, _, err = run(capsys, *argv, "--max_new_tokens=90")
    assert code == 0
    length = len(jaxpt.load(bundle).tokenizer.encode("the quick"))
    assert err == (
        "jaxpt generate: prompt 0 and what follows it go past the model's 64 positions (max_positions), beyond which "
        f"it was not made to work; at most {64 - length} new tokens stay within them\n"
    )
    assert run(capsys, *argv, f"--max_new_tokens={64 - length}")[2] == ""
    _, _, err = run(capsys, *argv[:2], f"--prompt={'the quick ' * 60}", "--max_new_tokens=1")
    assert "goes past the model's 64 positions" in err
    assert "give a shorter prompt" in err
