"""What a notebook imports: load, save, forward; joins the rooms."""

from pathlib import Path

import jax

from jaxpt import tokenizers
from jaxpt.bundles import open_bundle, save_bundle
from jaxpt.checkpoints.checkpoints import model_of, read_params, read_run
from jaxpt.checkpoints.named import named_checkpoint
from jaxpt.checkpoints.newest import read_checkpoint
from jaxpt.checkpoints.run_files import has_tokenizer, read_lineage
from jaxpt.errors import JaxptError
from jaxpt.files.absent import absent_model
from jaxpt.models.config import ModelConfig
from jaxpt.models.forward import forward
from jaxpt.models.model import Model
from jaxpt.models.params import Shardings

__all__ = ["Model", "ModelConfig", "forward", "kind_of", "load", "save"]


def kind_of(path: str | Path) -> str:
    """Returns what `path` holds: "run" (its newest checkpoint), "checkpoint", "bundle" or "hugging_face".

    Raises:
        JaxptError: nothing that a model can be loaded from.
    """
    path = named_checkpoint(path)
    if path.parent.name == "checkpoints" and path.name.isdigit():
        return "checkpoint"
    if (path / "checkpoints").is_dir():
        return "run"
    if (path / "model.json").is_file():
        return "bundle"
    if (path / "config.json").is_file():
        return "hugging_face"
    if not path.exists():
        raise JaxptError(f"{path} {absent_model(path)}")
    reason = "it has no model.json, checkpoints/ or config.json"
    raise JaxptError(f"{path} is not a bundle, run directory or Hugging Face directory: {reason}")


def load(
    path: str | Path, *, dtype: str | None = None, shardings: Shardings | None = None, mean: bool = False
) -> Model:
    """Loads a model with its tokenizer and lineage.

    Args:
        path: a bundle, a run directory (its newest checkpoint), `RUN/checkpoints/STEP`, `RUN@STEP`, `RUN@best` (see
            `jaxpt.checkpoints.named`), or a Hugging Face directory.
        dtype: cast every parameter; None keeps each one's own.
        shardings: tree of `NamedSharding`, same structure as the parameters; None: on this process's first device.
        mean: of a run or checkpoint that keeps one (`config.averaging`), the mean of the parameters instead of them.

    Returns:
        `Model` with `config, params, axes, tokenizer, lineage`.

    Raises:
        JaxptError: nothing there that can be read, or damaged data.
    """
    path = named_checkpoint(path)
    kind = kind_of(path)
    if mean and kind not in ("run", "checkpoint"):
        raise JaxptError(f"{path} is a {kind.replace('_', ' ')}: only runs keep a mean of the parameters beside them")
    if kind == "bundle":
        model = open_bundle(path).model(dtype, shardings)
        return model if shardings is not None else _on_device(model)
    if kind == "hugging_face":
        from jaxpt import interop

        model = interop.load_hf(path, dtype=dtype, shardings=shardings)
        return model if shardings is not None else _on_device(model)
    run = path if kind == "run" else path.parents[1]
    return _from_run(run, int(path.name) if kind == "checkpoint" else None, dtype, shardings, mean)


def _on_device(model: Model) -> Model:
    return Model(model.config, jax.tree.map(jax.numpy.asarray, model.params), model.tokenizer, model.lineage)


def _from_run(run: Path, step: int | None, dtype: str | None, shardings: Shardings | None, mean: bool) -> Model:
    def read(step: int) -> Model:
        facts = read_run(run, step)
        params = read_params(run, step, facts, shardings, mean)
        if dtype is not None:
            params = jax.tree.map(lambda x: x.astype(dtype), params)
        entry = {
            "op": "train",
            "options": {"run": run.name, **({"of": "mean"} if mean else {})},
            "steps": step,
            "tokens": facts["tokens"],
        }
        entry |= {"flops": facts["flops"]} if "flops" in facts else {}
        entry |= {"ledger": facts.get("ledger", [])}
        tokenizer = tokenizers.load(run / "tokenizer") if has_tokenizer(run) else None
        return Model(model_of(facts), params, tokenizer, (*read_lineage(run), entry))

    return read_checkpoint(run, step, read)


def save(model: Model, path: str | Path) -> Path:
    """Writes a model as a bundle; `path` must not exist.

    Raises:
        JaxptError: the target exists or cannot be written.
    """
    return save_bundle(model, path)
