"""Renders chat templates in a process of its own, which its parent may end: a template is a stranger's program.

Started by `jaxpt.tokenizers.rendering` as a script, so that it imports nothing but Jinja. Requests and answers are
JSON, each behind its length in eight bytes. A signal of the system ends it where a template takes longer than it may,
also in the middle of a call into C; its memory is limited.
"""

import datetime
import functools
import json
import resource
import signal
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, BinaryIO

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

BEGIN, END, LITERAL = "\ufdd0", "\ufdd1", "\ufdd2"  # noncharacters: Unicode promises that no text has them
SHOWN = 200  # characters of an error's text
Reply = dict[str, Any]


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}` around what the assistant wrote, as templates on the hub have it."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begin, end = (nodes.Output([nodes.TemplateData(mark)]).set_lineno(line) for mark in (BEGIN, END))
        return nodes.Scope([begin, *body, end]).set_lineno(line)


class TooLong(Exception):
    """The text is longer than it may be."""


def answer(request: dict[str, Any]) -> Reply:
    """Returns `text`, the template rendered over the messages, or an `error`.

    With `turns`, where nothing in the text marks what the assistant wrote, also `spans`: (start, stop) of each of its
    turns, each being what it adds to the conversation so far with the generation prompt; None for a turn that the
    template writes differently once more turns follow.
    """
    try:
        template, messages, values = request["template"], request["messages"], request["values"]
        date, most = datetime.datetime.fromisoformat(request["date"]), request["characters"]

        def render(some: Sequence[Any], **more: Any) -> str:
            parts, size = [], 0
            now = date.strftime
            for part in _compiled(template).generate(messages=some, strftime_now=now, **{**values, **more}):
                parts.append(part)
                size += len(part)
                if size > most:
                    raise TooLong(f"it writes more than {most:,} characters")
            return "".join(parts)

        text = render(messages)
        if not request["turns"] or BEGIN in text:
            return {"text": text}
        spans: list[tuple[int, int] | None] = []
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                before, after = render(messages[:i], add_generation_prompt=True), render(messages[: i + 1])
                alike = after.startswith(before) and text.startswith(after)
                spans.append((len(before), len(after)) if alike else None)
        return {"text": text, "spans": spans}
    except TemplateSyntaxError as error:
        return {"error": f"line {error.lineno}: {str(error)[:SHOWN]}"}
    except (TemplateError, TooLong) as error:
        return {"error": str(error)[:SHOWN]}
    except MemoryError:
        return {"error": "it needs more memory than a template may have"}
    except RecursionError:
        return {"error": "it calls itself without end"}
    except Exception as error:  # of whatever the template does with the values
        return {"error": f"{type(error).__name__}: {str(error)[:SHOWN]}"}


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
    text = json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return text.replace("\\ufdd2", LITERAL) if ensure_ascii else text


def main(seconds: int, memory: int, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answers lists of requests until there are no more, each request within `seconds`."""
    with suppress(ValueError, OSError):  # not every system has such a limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    while len(head := requests.read(8)) == 8:
        made = []
        for request in json.loads(requests.read(*struct.unpack("<q", head))):
            signal.alarm(seconds)
            made.append(answer(request))
            signal.alarm(0)
        data = json.dumps(made).encode()
        replies.write(struct.pack("<q", len(data)) + data)
        replies.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.stdin.buffer, sys.stdout.buffer)
