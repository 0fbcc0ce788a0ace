"""From a `model_type` to its family: a file of `jaxpt/interop/families/`, or the user's own `package.module:FAMILY`."""

import importlib
import pkgutil
from collections.abc import Mapping

from jaxpt.errors import JaxptError, nearest, short
from jaxpt.interop import families
from jaxpt.interop.family import Family, write_config
from jaxpt.models.config import ModelConfig


def _all() -> dict[str, Family]:
    modules = [
        importlib.import_module(f"{families.__name__}.{m.name}") for m in pkgutil.iter_modules(families.__path__)
    ]
    return {module.FAMILY.model_type: module.FAMILY for module in modules}


FAMILIES: dict[str, Family] = _all()


def family_named(name: str, where: str = "--family") -> Family:
    """Returns the family that `name` picks: a `model_type`, or `package.module:NAME` of the user's own.

    Args:
        name: as the user gave it.
        where: the flag or argument, for messages.

    Raises:
        JaxptError: an unknown name, with its nearest neighbour; a module or object that is not there or no `Family`.
    """
    path, colon, attribute = name.partition(":")
    if not colon:
        if name not in FAMILIES:
            raise JaxptError(f"{where}={name} is unknown{nearest(name, FAMILIES)}; known: {', '.join(FAMILIES)}")
        return FAMILIES[name]
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name and not f"{path}.".startswith(f"{error.name}."):
            raise  # a module that the user's own code imports
        raise JaxptError(f"{where}={name}: there is no module {error.name}; put its folder on PYTHONPATH") from None
    family = getattr(module, attribute, None)
    if not isinstance(family, Family):
        raise JaxptError(f"{where}={name}: {path} has no {attribute} that is a jaxpt.interop.family.Family")
    return family


def family_of(values: Mapping[str, object], where: str, name: str | None = None) -> Family:
    """Returns the family that a config.json names, or the one that `name` picks where that is given.

    Raises:
        JaxptError: an unknown one, a model that is not a causal language model, quantised weights, or code of its own.
    """
    kind = values.get("model_type")
    if name is None and (not isinstance(kind, str) or kind not in FAMILIES):
        raise JaxptError(
            f"{where}: model_type {short(kind)} is not read{nearest(short(kind), FAMILIES)}; "
            f"known: {', '.join(FAMILIES)}; "
            f"jaxpt import --family=package.module:FAMILY reads one of your own"
        )
    family = FAMILIES[str(kind)] if name is None else family_named(name)
    if kind != family.model_type:
        raise JaxptError(f"{where}: model_type is {short(kind)}, --family={name} reads {family.model_type!r}")
    named = values.get("architectures") or [family.architecture]
    if named != [family.architecture]:
        listed = ", ".join(map(str, named[:6])) if isinstance(named, list) else str(named)
        raise JaxptError(f"{where}: architecture {listed[:200]} is not read, only {family.architecture}")
    if values.get("quantization_config"):
        raise JaxptError(f"{where} asks for quantization_config: quantised weights are not read; use the original ones")
    return family


def expresses(family: Family, config: ModelConfig) -> bool:
    """Whether a family can say everything that a model is."""
    try:
        write_config(family, config)
    except JaxptError:
        return False
    return True


def family_for(config: ModelConfig) -> Family:
    """Returns the first family, by name, that can express a model.

    Raises:
        JaxptError: none can; the nearest one's reason.
    """
    reasons = []
    for family in FAMILIES.values():
        try:
            write_config(family, config)
        except JaxptError as e:
            reasons.append(f"{family.model_type}: {e}")
        else:
            return family
    raise JaxptError(f"export: no family can express this model ({'; '.join(reasons)[:600]})")
