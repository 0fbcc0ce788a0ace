"""From a `model_type` to its family: a file of `jaxpt/interop/families/`, or the user's own `package.module:FAMILY`."""

import importlib
import pkgutil
from collections.abc import Mapping

from jaxpt.errors import JaxptError, nearest, short
from jaxpt.interop import families
from jaxpt.interop.family import Family
from jaxpt.interop.folding import FamilyForm, form_of
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


def forms_of(config: ModelConfig, own: str | None = None) -> tuple[list[FamilyForm], dict[str, str]]:
    """Returns the families that can hold a model, and for each other family why it cannot.

    Args:
        config: the model.
        own: its own family's `model_type`, which comes first in both; then those that need no scale folded, by name.
    """
    forms, reasons = [], {}
    for kind in sorted(FAMILIES, key=lambda kind: kind != own):
        try:
            forms.append(form_of(FAMILIES[kind], config))
        except JaxptError as e:
            reasons[kind] = str(e)
    return sorted(forms, key=lambda form: (form.family.model_type != own, bool(form.folded))), reasons


def form_for(config: ModelConfig, own: str | None = None) -> FamilyForm:
    """Returns the form that a model is exported in where the user names none: the first of `forms_of`.

    Raises:
        JaxptError: no family can hold it; the reason of its own comes first.
    """
    forms, reasons = forms_of(config, own)
    if not forms:
        raise JaxptError(f"export: no family can hold this model; {refusals(reasons, own)}")
    return forms[0]


def refusals(reasons: Mapping[str, str], own: str | None = None) -> str:
    """Returns why families cannot hold a model, on one line: its own first, then those of one reason together."""
    return "; ".join(f"{kinds}: {reason}" for kinds, reason in _grouped(reasons, own))


def holding(config: ModelConfig, own: str | None = None) -> str:
    """Returns, for a person, which families can hold a model, and why not its own: what `jaxpt reshape` says first."""
    forms, reasons = forms_of(config, own)
    held = [
        _named(form.family.model_type, own) + (f" ({'; '.join(form.folded)})" if form.folded else "") for form in forms
    ]
    if not held:
        lines = [f"  {kinds}: {reason}" for kinds, reason in _grouped(reasons, own)]
        return "\n".join(["export: no family can hold the result; only jaxpt will read it", *lines])
    against = {kind: reason for kind, reason in reasons.items() if kind == own}
    lines = [f"  not {kinds}: {reason}" for kinds, reason in _grouped(against, own)]
    return "\n".join([f"export: the result can be held by {', '.join(held)}", *lines])


def _named(kind: str, own: str | None) -> str:
    return f"{kind} (its own)" if kind == own else kind


def _grouped(reasons: Mapping[str, str], own: str | None) -> list[tuple[str, str]]:
    """(families, reason): that of the own family first, families of one reason together."""
    together: dict[str, list[str]] = {}
    for kind in sorted(reasons, key=lambda kind: kind != own):
        reason = reasons[kind]
        for lead in ("cannot hold the model: ", "cannot express "):
            reason = reason.removeprefix(f"export: the family {kind} {lead}")
        together.setdefault(reason.removeprefix("export: "), []).append(_named(kind, own))
    return [(" and ".join(kinds) if len(kinds) < 3 else ", ".join(kinds), reason) for reason, kinds in together.items()]
