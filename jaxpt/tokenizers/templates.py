"""The chat templates that a tokenizer's directory names, and which one writes a conversation."""

from collections.abc import Mapping
from pathlib import Path

from jaxpt.errors import JaxptError
from jaxpt.files.strangers import check_file

DEFAULT, TOOL_USE = "default", "tool_use"
FOLDER = "additional_chat_templates"  # a file NAME.jinja each, beside chat_template.jinja


def named_templates(value: object, where: str) -> dict[str, str]:
    """Returns the templates of `tokenizer_config.json` by name; one alone is called `default`.

    Args:
        value: text, a list of `{"name": …, "template": …}`, a dict of name to text, or None.
        where: the file, for errors.

    Raises:
        JaxptError: another form.
    """
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT: value}
    entries = value.items() if isinstance(value, Mapping) else _listed(value)
    named = {}
    for name, template in entries:
        if not isinstance(name, str) or not isinstance(template, str):
            raise JaxptError(f"{where}: chat_template must be text, or a list of entries with a name and a template")
        named[name] = template
    return named


def _listed(value: object) -> list[tuple[object, object]]:
    entries = value if isinstance(value, list) else [value]
    return [(e.get("name"), e.get("template")) if isinstance(e, Mapping) else (None, None) for e in entries]


def additional_files(folder: Path) -> list[Path]:
    """Returns the files of further chat templates, sorted by name.

    Raises:
        JaxptError: one of them is no file of this folder (a link that leaves it, a device).
    """
    files = sorted((folder / FOLDER).glob("*.jinja"))
    for file in files:
        check_file(folder, file)
    return files


def template_for(templates: Mapping[str, str], tools: object, where: str) -> str:
    """Returns the template of a conversation: `tool_use` where there are tools and a template of that name.

    Raises:
        JaxptError: there is no template, or none called `default`.
    """
    if tools and TOOL_USE in templates:
        return templates[TOOL_USE]
    if DEFAULT in templates:
        return templates[DEFAULT]
    if templates:
        raise JaxptError(f"the tokenizer {where} has chat templates only for {', '.join(templates)}; name one of them")
    raise JaxptError(f"the tokenizer {where} has no chat template; add chat_template.jinja beside it")
