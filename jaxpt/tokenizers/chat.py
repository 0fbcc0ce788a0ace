"""Chat templates: Jinja in a sandbox that can change nothing."""

import json
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxpt.errors import JaxptError


def render(template: str, messages: list[dict[str, Any]], values: dict[str, Any]) -> str:
    """Returns `template` rendered over `messages`, with the helpers that templates on the Hugging Face hub expect.

    Raises:
        JaxptError: the template is broken or refuses the messages (`raise_exception`).
    """

    def refuse(message: str) -> None:
        raise TemplateError(message)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    env.globals["raise_exception"] = refuse
    env.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
    try:
        return env.from_string(template).render(messages=messages, **values)
    except (TemplateError, TypeError) as e:
        raise JaxptError(f"chat template: {e}") from e
