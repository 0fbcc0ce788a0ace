"""The file in which a reshape keeps the scores of the model it starts from, and reads them again for other shapes."""

from collections.abc import Callable
from pathlib import Path

from jaxpt.errors import JaxptError
from jaxpt.models import ModelConfig
from jaxpt.reshape.picture import draw_scores
from jaxpt.reshape.scores import Scores
from jaxpt.reshape.setting import ReshapeSetting


def keep_scores(
    setting: ReshapeSetting, config: ModelConfig, digest: Callable[[], str], file: str | None, pictures: str | None
) -> None:
    """Has stored scores used where there are some, fresh ones kept where `file` says, and all drawn.

    Args:
        setting: gets `scores` and `on_scores`.
        config: of the model.
        digest: returns a hash of the model's parameters; it is called where scores are read or written.
        file: path of the scores, None: none are kept.
        pictures: folder for pictures of the scores, None: none are drawn.

    Raises:
        JaxptError: stored scores of another model, of other data, or taken in another way than the setting asks for.
    """
    known = file is not None and Path(file).exists()
    if file is not None and known:
        setting.scores = Scores.load(file)
        setting.scores.check(config)
        _check_request(file, setting.scores, digest(), setting)
        setting.log(f"scores from {file} ({setting.scores.meta['method']}, {setting.scores.meta['tokens']:,} tokens)")

    def keep_and_draw(scores: Scores) -> None:
        if file is not None and not known:
            Scores(scores.values, {**scores.meta, "model": digest()}).save(file)
            setting.log(f"scores kept in {file}")
        for path in draw_scores(scores, pictures) if pictures else ():
            setting.log(f"drew {path}")

    setting.on_scores = keep_and_draw


def _check_request(file: str, scores: Scores, digest: str, setting: ReshapeSetting) -> None:
    """Refuses scores of another model, or of other data or in another way than the config asks for."""
    way = f"remove {file} or give another file in config.scores"
    if scores.meta.get("model") != digest:
        raise JaxptError(f"{file} holds scores of other weights than those of the model; {way}")
    if not setting.batches:
        return
    c = setting.calibration
    asked = {"data": setting.data, "over_sequence": c.over_sequence, "over_batch": c.over_batch}
    for name, value in asked.items():
        if scores.meta.get(name) != value:
            key = "config.calibration" + ("" if name == "data" else f".{name}")
            raise JaxptError(f"{file} was scored on {scores.meta.get(name)}, {key} asks for {value}; {way}")
    if c.removal and "layers_loss" not in scores.values:
        raise JaxptError(f"{file} lacks the loss change on removal that config.calibration.removal asks for; {way}")
