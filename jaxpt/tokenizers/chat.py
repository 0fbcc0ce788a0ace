"""Chat templates, rendered apart: which characters the assistant wrote, which control tokens are only spelled."""

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jaxpt.errors import JaxptError, nearest
from jaxpt.tokenizers.rendering import ask
from jaxpt.tokenizers.template_worker import BEGIN, END, LITERAL

NAMED = ("plain", "chatml")
DATE = "2026-01-01"  # what `strftime_now` says while data are packed, so that the same command gives the same rows
CharacterSpan = tuple[int, int]
Message = Mapping[str, object]  # role, content, and what else a template knows
Conversation = tuple[Sequence[Message], Mapping[str, object]]  # and further names for the template
_MARKS = re.compile(f"[{BEGIN}{END}{LITERAL}]")
NOTHING = re.compile("(?!)")


@dataclass(frozen=True)
class Rendered:
    """A conversation as its template writes it.

    `spans` are the (start, stop) characters of what the assistant wrote, `literal` those of control tokens that are
    spelled in what people and tools wrote, not written by the template.
    """

    text: str
    spans: list[CharacterSpan]
    literal: list[CharacterSpan]


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


def render(
    template: str,
    messages: Sequence[Message],
    values: Mapping[str, object],
    *,
    name: str = "chat template",
    date: str | None = None,
) -> str:
    """Returns `template` rendered over `messages`, with the functions that templates on the Hugging Face hub expect.

    Args:
        template: its source, a stranger's program: it runs in a process with limits of time, output and memory.
        messages: the conversation.
        values: further names for the template.
        name: what errors call the template.
        date: of `strftime_now`, in ISO form; None: now.

    Raises:
        JaxptError: the template is broken, refuses the messages (`raise_exception`) or exceeds a limit.
    """
    (answer,) = _ask(template, [(messages, values)], name, date)
    return _MARKS.sub("", _checked(answer, name)["text"])


def render_apart(
    template: str,
    messages: Sequence[Message],
    values: Mapping[str, object],
    *,
    control: re.Pattern[str],
    name: str = "chat template",
    date: str | None = None,
) -> Rendered:
    """Returns a conversation as `render` does, with the places of control tokens that people and tools only spell.

    `spans` are those that a template marks with `{% generation %}`; the other arguments and errors are `render`'s.

    Args:
        template: its source.
        messages: the conversation.
        values: further names for the template; of these only `tools` are people's.
        control: finds control tokens, as `Tokenizer.control` does.
        name: what errors call the template.
        date: of `strftime_now`, in ISO form; None: now.
    """
    said, tools = _marked([messages, values.get("tools")], control)
    (answer,) = _ask(template, [(said, {**values, **({"tools": tools} if tools else {})})], name, date)
    return Rendered(*_read_marks(_checked(answer, name)["text"]))


def render_with_spans(
    template: str,
    messages: Sequence[Message],
    values: Mapping[str, object],
    *,
    control: re.Pattern[str] = NOTHING,
    name: str = "chat template",
    date: str = DATE,
) -> Rendered:
    """Returns one conversation as `render_conversations` does; raises what is wrong with it."""
    (made,) = render_conversations(template, [(messages, values)], control=control, name=name, date=date)
    if isinstance(made, JaxptError):
        raise made
    return made


def render_conversations(
    template: str,
    conversations: Sequence[Conversation],
    *,
    control: re.Pattern[str] = NOTHING,
    name: str = "chat template",
    date: str = DATE,
) -> list[Rendered | JaxptError]:
    """Returns rendered conversations: what the assistant wrote, what only spells a control token, or what is wrong.

    A template that marks the assistant's part with `{% generation %}` is taken at its word. One that does not is
    rendered turn by turn: an assistant's turn is what it adds to the conversation so far with the generation prompt,
    end of turn included. Where a message spells a control token, a mark is put into it before the template sees it and
    taken out of the result, so that a template which looks for the token in a message does not find it.

    Args:
        template: its source.
        conversations: messages, and further names for the template; of these only `tools` are people's.
        control: finds control tokens, as `Tokenizer.control` does.
        name: what errors call the template.
        date: of `strftime_now`, in ISO form.
    """
    out: list[Rendered | JaxptError] = []
    marked: list[Conversation] = []
    for messages, values in conversations:
        try:
            said, tools = _marked([messages, values.get("tools")], control)
            marked.append((said, {**values, **({"tools": tools} if tools else {})}))
        except JaxptError as error:
            out.append(error)
            break  # those before it come first
    answers = _ask(template, marked, name, date, turns=True) if marked else []
    return [*(_rendered(a, messages, name) for a, (messages, _) in zip(answers, conversations)), *out]


def _rendered(answer: dict[str, Any], messages: Sequence[Message], name: str) -> Rendered | JaxptError:
    try:
        text, spans, literal = _read_marks(_checked(answer, name)["text"])
    except JaxptError as error:
        return error
    if "spans" in answer:
        spans = []
        for number, span in enumerate(answer["spans"]):
            if span is None:
                turn = [i for i, m in enumerate(messages, 1) if m["role"] == "assistant"][number]
                return JaxptError(
                    f"{name} writes turn {turn} differently in another place, so what the assistant wrote cannot be "
                    f"determined; mark it with {{% generation %}} or name another template ({', '.join(NAMED)})"
                )
            before = answer["text"][: span[1]]
            spans.append((span[0] - before.count(LITERAL, 0, span[0]), span[1] - before.count(LITERAL)))
    return Rendered(text, spans, literal)


def _marked(value: Any, control: re.Pattern[str]) -> Any:
    """The value with a mark after the first character of each control token that one of its texts spells."""
    if isinstance(value, str):
        if _MARKS.search(value):
            raise JaxptError("a message holds U+FDD0, U+FDD1 or U+FDD2, which are not characters; clean the text first")
        return control.sub(lambda m: f"{m[0][:1]}{LITERAL}{m[0][1:]}", value)
    if isinstance(value, Mapping):
        return {_marked(k, control): _marked(v, control) for k, v in value.items()}
    return [_marked(v, control) for v in value] if isinstance(value, (list, tuple)) else value


def _read_marks(marked: str) -> tuple[str, list[CharacterSpan], list[CharacterSpan]]:
    """The text without marks, the spans between BEGIN and END, and the places of LITERAL: the characters around it."""
    if not _MARKS.search(marked):
        return marked, [], []
    parts: list[str] = []
    spans: list[CharacterSpan] = []
    literal: list[CharacterSpan] = []
    at = last = begun = 0
    for match in _MARKS.finditer(marked):
        parts.append(marked[last : match.start()])
        at, last = at + len(parts[-1]), match.end()
        if match[0] == BEGIN:
            begun = at
        elif match[0] == END:
            spans.append((begun, at))
        else:
            literal.append((at - 1, at + 1))
    return "".join([*parts, marked[last:]]), spans, literal


def _ask(
    template: str, conversations: Sequence[Conversation], name: str, date: str | None, turns: bool = False
) -> list[dict[str, Any]]:
    shared = {"template": template, "date": date or datetime.datetime.now().isoformat(), "turns": turns}
    try:
        return ask([{**shared, "messages": list(m), "values": dict(values)} for m, values in conversations])
    except (TypeError, ValueError, RecursionError) as error:  # of json.dumps
        raise JaxptError(f"{name}: the messages are not plain values ({str(error)[:100]})") from error


def _checked(answer: dict[str, Any], name: str) -> dict[str, Any]:
    if "error" in answer:
        raise JaxptError(f"{name}: {answer['error']}")
    return answer
