"""The model that a server serves, with all that its routes share."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from jaxpt.errors import JaxptError
from jaxpt.serving.engine_thread import EngineThread
from jaxpt.serving.figures import Figures
from jaxpt.serving.limits import ServingLimits
from jaxpt.serving.refusal import Refusal
from jaxpt.serving.vocabulary import ServedVocabulary, too_long

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class ServedModel:
    """One model under one or several names.

    `background` is the thread in which texts are encoded and templates rendered, so that neither a long text nor a slow
    template holds up other requests' tokens.
    """

    names: tuple[str, ...]
    thread: EngineThread
    vocabulary: ServedVocabulary
    limits: ServingLimits
    figures: Figures
    created: int = field(default_factory=lambda: int(time.time()))
    background: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="texts")
    )

    async def apart(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns what a call gives in the background thread.

        Raises:
            Refusal: it raised one, or a JaxptError: a value of the request was the cause.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.background, lambda: call(*args, **kwargs))
        except JaxptError as error:
            raise Refusal(400, " ".join(str(error).split())[:2000]) from error

    def name(self, asked: str | None) -> str:
        """Returns the name that a request's model has.

        Raises:
            Refusal: it is another model's.
        """
        if asked is None or asked in self.names:
            return asked or self.names[0]
        raise Refusal(
            404,
            f"The model {asked[:100]!r} does not exist; this server has {', '.join(self.names)}",
            param="model",
            code="model_not_found",
        )

    def room(self, prompt: int, wanted: int | None, default: int | None) -> int:
        """Returns how many new tokens a prompt may get.

        Args:
            prompt: its tokens.
            wanted: what the request asks for; None: nothing.
            default: what it then gets where there is room; None: all that there is room for.

        Raises:
            Refusal: prompt and continuation do not fit.
        """
        left = self.thread.max_length - prompt
        if wanted is None:
            if left < 1:
                raise too_long(self.thread.max_length, prompt, 1)
            return left if default is None else min(left, default)
        if wanted > left:
            raise too_long(self.thread.max_length, prompt, wanted)
        return wanted
