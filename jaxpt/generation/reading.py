"""Reading a prompt piece by piece, so that whoever serves others can do so in between."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.generation.attend import Stored
from jaxpt.generation.passes import Prefix, ranked, run, taken
from jaxpt.generation.prefixes import CHUNK, appended, empty, one_row
from jaxpt.generation.shapes import rounded
from jaxpt.generation.weights import LaidOutWeights
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig

AT_ONCE = (16, 64, 256)  # places whose logits are computed together: each a program


class PromptReader:
    """Reads one prompt, at most `CHUNK` tokens at each `step`; what it computes depends on that prompt alone.

    `x [1, S, D]` is the last piece's stream and `last` the place of the prompt's end in it; `stored` has where each
    piece begins, with its keys and values. `logprobs` has an entry for every token after the first, `top` the likeliest
    ones at each of those places as (id, log-probability); both are empty where none are asked for.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: LaidOutWeights,
        compute: Compute,
        prompt: Sequence[int],
        *,
        top: int | None = None,
        most: int = 1,
    ):
        """Begins with nothing read.

        Args:
            config: the model.
            weights: laid out.
            compute: what they are multiplied in.
            prompt: token ids of the vocabulary, at least one.
            top: so many of the likeliest tokens are reported beside each token of the prompt; None: no
                log-probabilities of the prompt.
            most: the programs find so many of the likeliest, at least `top`; one number for all prompts compiles once.
        """
        self.config, self.weights, self.compute = config, weights, compute
        self.prompt, self.wanted, self.most = list(prompt), top, max(most, top or 0, 1)
        self.read = 0
        self.stored: list[tuple[int, tuple[Stored, ...]]] = []
        self.logprobs: list[float] = []
        self.top: list[list[tuple[int, float]]] = []
        self.last = 0
        self._prefix: tuple[Stored, ...] = ()

    @property
    def done(self) -> bool:
        """Whether all of the prompt has been read."""
        return self.read == len(self.prompt)

    def step(self) -> int:
        """Reads the next piece; returns how many tokens it has."""
        at, ahead = self.read, (len(self.prompt) - 1) // CHUNK * CHUNK
        part = self.prompt[at : at + CHUNK]
        prefix = Prefix(self._prefix, jnp.asarray(at, jnp.int32)) if at else None
        self.x, stored = run(self.config, self.weights, self.compute, one_row(part, at), prefix)
        self.stored.append((at, stored))
        self.read, self.last = at + len(part), len(part) - 1
        if not self.done:
            before = self._prefix or empty(self.config, self.compute, rounded(ahead, 64))
            self._prefix = appended(before, stored, at)
        else:
            self._prefix = ()
        if self.wanted is not None:
            self._rank(self.prompt[at + 1 : at + 1 + len(part)])
        return len(part)

    def _rank(self, targets: list[int]) -> None:
        """Log-probabilities of the tokens that follow the places of `x` in order."""
        for begin in range(0, len(targets), AT_ONCE[-1]):
            some = targets[begin : begin + AT_ONCE[-1]]
            fill = (0, next(n for n in AT_ONCE if n >= len(some)) - len(some))
            places, wanted = np.pad(begin + np.arange(len(some)), fill), np.pad(np.asarray(some, np.int32), fill)
            streams = taken(self.x, jnp.asarray(places))
            found = ranked(
                self.config, self.compute, self.most, self.weights.outer, streams, jnp.asarray(wanted, jnp.int32)
            )
            values, ids, top = (np.asarray(a)[: len(some)].tolist() for a in jax.device_get(found))
            self.logprobs += values
            self.top += [list(zip(i, t))[: self.wanted] for i, t in zip(ids, top)]
