"""Chat templates: Jinja in a sandbox that can change nothing, and which characters of a chat the assistant wrote."""

import functools
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxpt.errors import JaxptError, nearest

NAMED = ("plain", "chatml")
BEGIN, END = "\ufdd0", "\ufdd1"  # noncharacters: Unicode promises that no text has them
CharacterSpan = tuple[int, int]
Message = Mapping[str, object]  # role, content, and what else a template knows


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}` around what the assistant wrote, as templates on the hub have it."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begin, end = (nodes.Output([nodes.TemplateData(mark)]).set_lineno(line) for mark in (BEGIN, END))
        return nodes.Scope([begin, *body, end]).set_lineno(line)


def named_template(name: str) -> str:
    """Returns the template called `name`: one that comes with jaxpt (`plain`, `chatml`) or a `.jinja` file.

    Raises:
        JaxptError: there is no such template.
    """
    if name in NAMED:
        return resources.files("jaxpt.tokenizers").joinpath(f"{name}.jinja").read_text(encoding="utf-8")
    if not Path(name).is_file():
        raise JaxptError(f"chat template {name} is not a file{nearest(name, NAMED)}; known are {', '.join(NAMED)}")
    return Path(name).read_text(encoding="utf-8")


def render(template: str, messages: Sequence[Message], values: Mapping[str, object]) -> str:
    """Returns `template` rendered over `messages`, with the helpers that templates on the Hugging Face hub expect.

    Raises:
        JaxptError: the template is broken or refuses the messages (`raise_exception`).
    """
    return _render(template, messages, values).replace(BEGIN, "").replace(END, "")


def render_with_spans(
    template: str, messages: Sequence[Message], values: Mapping[str, object]
) -> tuple[str, list[CharacterSpan]]:
    """Returns the rendered conversation and the (start, stop) characters of what the assistant wrote.

    A template that marks them with `{% generation %}` is taken at its word. One that does not is rendered turn by
    turn: an assistant's turn is what it adds to the conversation so far with the generation prompt, end of turn
    included.

    Raises:
        JaxptError: as `render`; a template without marks that writes a turn differently once more turns follow.
    """
    if BEGIN in (whole := json.dumps([messages, values], ensure_ascii=False, default=str)) or END in whole:
        raise JaxptError("a message holds U+FDD0 or U+FDD1, which are not characters; clean the text first")
    marked = _render(template, messages, values)
    if BEGIN in marked:
        return _read_marks(marked)
    return marked, _spans_by_turn(template, messages, values, marked)


def _read_marks(marked: str) -> tuple[str, list[CharacterSpan]]:
    parts: list[str] = []
    spans: list[CharacterSpan] = []
    at = 0
    for i, part in enumerate(marked.replace(END, BEGIN).split(BEGIN)):
        if i % 2:
            spans.append((at, at + len(part)))
        parts.append(part)
        at += len(part)
    return "".join(parts), spans


def _spans_by_turn(
    template: str, messages: Sequence[Message], values: Mapping[str, object], whole: str
) -> list[CharacterSpan]:
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(template, messages[:i], {**values, "add_generation_prompt": True})
        after = _render(template, messages[: i + 1], values)
        if not (after.startswith(before) and whole.startswith(after)):
            raise JaxptError(
                f"the chat template writes turn {i + 1} differently in another place, so what "
                f"the assistant wrote cannot be determined; mark it with {{% generation %}} or name another template "
                f"({', '.join(NAMED)})"
            )
        spans.append((len(before), len(after)))
    return spans


def _render(template: str, messages: Sequence[Message], values: Mapping[str, object]) -> str:
    try:
        return _compiled(template).render(messages=list(messages), **values)
    except TemplateSyntaxError as e:
        raise JaxptError(f"chat template, line {e.lineno}: {e}") from e
    except (TemplateError, TypeError) as e:
        raise JaxptError(f"chat template: {e}") from e


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    def refuse(message: str) -> None:
        raise TemplateError(message)

    extensions = ["jinja2.ext.loopcontrols", _Generation]
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    env.globals["raise_exception"] = refuse
    env.filters["tojson"] = _to_json
    return env.from_string(template)


def _to_json(
    x: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is; Jinja's own filter escapes what HTML would misread."""
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
