"""The driver of the slots: requests go in where a slot is free, tokens and finished completions come out."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.errors import JaxptError
from jaxpt.generation.detokenize import Decode, text_after
from jaxpt.generation.passes import run
from jaxpt.generation.prefixes import CHUNK, Prefixes, one_row
from jaxpt.generation.reading import PromptReader
from jaxpt.generation.requests import Completion, Request, check_tokens, first_stop
from jaxpt.generation.sampling import NO_ID, Biases, Samplings
from jaxpt.generation.shapes import power_of_two, rounded
from jaxpt.generation.slots import NO_TOKEN, Drawn, Entrant, advance, empty_slots, enter, first, rest, store
from jaxpt.generation.weights import LaidOutWeights
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig


@dataclass
class _Going:
    number: int
    request: Request
    done: Completion


class Continuing:
    """Slots of one size, each continuing one request: the shapes of its programs never depend on the requests.

    What a request gives does not depend on what the other slots hold.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: LaidOutWeights,
        compute: Compute,
        *,
        slots: int,
        room: int,
        chunk: int = 8,
        ends: int = 1,
        biases: int = 0,
        top: int | None = None,
        decode: Decode | None = None,
    ):
        """Makes empty slots.

        Args:
            config: the model.
            weights: laid out.
            compute: what they are multiplied in.
            slots: how many.
            room: tokens of a slot, prompt and continuation together (see `room_for`).
            chunk: tokens drawn in one program, at most.
            ends: end ids of a request, at most.
            biases: entries of a request's `logit_bias`, at most.
            top: the most likeliest tokens that a request may ask for; None: no log-probabilities.
            decode: ids to text, for stop texts.
        """
        self.config, self.weights, self.compute = config, weights, compute
        self.room, self.chunk, self.top, self.decode = room, chunk, top, decode
        self.ends, self.biases = power_of_two(max(1, ends)), biases
        self._slots = empty_slots(config, compute, slots, room, self.ends, biases)
        self._going: dict[int, _Going] = {}
        self._free = list(range(slots))[::-1]
        self._prefixes = Prefixes(config, weights, compute)

    @property
    def free(self) -> int:
        """How many slots are free."""
        return len(self._free)

    @property
    def going(self) -> list[int]:
        """The numbers of requests that are being continued."""
        return [g.number for g in self._going.values()]

    def admit(self, number: int, request: Request, shared: int = 0) -> list[tuple[int, Completion]]:
        """Reads a prompt into a free slot and draws its first token; returns it where it is finished with that.

        Args:
            number: what the request is called in what comes back.
            request: with a prompt and a number of tokens that fit the room.
            shared: so many tokens at its beginning are kept, as the next prompts begin with them too.
        """
        prompt = list(request.prompt)
        slot = self._free.pop()
        self._going[slot] = _Going(number, request, Completion())
        ahead = shared or (len(prompt) - 1) // CHUNK * CHUNK
        at = jnp.asarray(slot, jnp.int32)
        prefix = None
        if ahead:
            prefix = self._prefixes.of(prompt[:ahead])
            self._slots = store(self._slots, at, prefix.layers, jnp.zeros((), jnp.int32))
        while ahead < len(prompt):  # one piece, but where a shared beginning leaves a long rest
            part = prompt[ahead : ahead + CHUNK]
            x, stored = run(self.config, self.weights, self.compute, one_row(part, ahead), prefix)
            self._slots = store(self._slots, at, stored, jnp.asarray(ahead, jnp.int32))
            ahead += len(part)
            if ahead < len(prompt):
                prefix = self._prefixes.of(prompt[:ahead])
        return self._enter(slot, request, x, len(part) - 1)

    def admit_read(self, number: int, request: Request, read: PromptReader) -> list[tuple[int, Completion]]:
        """Puts a prompt that has been read into a free slot, as `admit` does."""
        slot = self._free.pop()
        self._going[slot] = _Going(number, request, Completion())
        at = jnp.asarray(slot, jnp.int32)
        for begin, stored in read.stored:
            self._slots = store(self._slots, at, stored, jnp.asarray(begin, jnp.int32))
        return self._enter(slot, request, read.x, read.last)

    def one_token(self, request: Request, read: PromptReader) -> Completion:
        """Returns the continuation of a prompt that has been read by one token, which needs no slot."""
        going = _Going(0, request, Completion())
        drawn = first(
            self.config,
            self.compute,
            self.top,
            self.weights.outer,
            read.x,
            jnp.asarray(read.last, jnp.int32),
            self._entrant(request),
        )
        self._keep(going, jax.tree.map(np.asarray, drawn), 0)
        return going.done

    def _enter(self, slot: int, request: Request, x: jax.Array, last: int) -> list[tuple[int, Completion]]:
        new = self._entrant(request)
        at = jnp.asarray(last, jnp.int32)
        drawn = first(self.config, self.compute, self.top, self.weights.outer, x, at, new)
        self._slots = enter(self._slots, jnp.asarray(slot, jnp.int32), drawn.tokens, new)
        return self._take(slot, jax.tree.map(np.asarray, drawn), 0)

    def _entrant(self, request: Request) -> Entrant:
        s, ends, bias = request.sampling, request.stop_ids, request.logit_bias
        data = jax.random.key_data(jax.random.fold_in(jax.random.key(request.seed), request.stream))
        free = self.biases - len(bias)
        return Entrant(
            jnp.asarray(len(request.prompt), jnp.int32),
            jnp.asarray(request.max_new_tokens, jnp.int32),
            data,
            Samplings(
                *(jnp.asarray(v, t) for v, t in ((s.temperature, "float32"), (s.top_k, "int32"), (s.top_p, "float32")))
            ),
            jnp.asarray([*ends, *[NO_TOKEN] * (self.ends - len(ends))], jnp.int32),
            Biases(
                jnp.asarray([*(i for i, _ in bias), *[NO_ID] * free], jnp.int32),
                jnp.asarray([*(v for _, v in bias), *[0.0] * free], jnp.float32),
            ),
            jnp.asarray(request.logprobs is not None),
        )

    def advance(self) -> list[tuple[int, Completion]]:
        """Draws up to `chunk` tokens in every slot; returns the requests that are finished with them."""
        if not self._going:
            return []
        most = max(g.request.max_new_tokens - len(g.done.tokens) for g in self._going.values())
        n = jnp.asarray(min(self.chunk, most), jnp.int32)
        self._slots, drawn = advance(self.config, self.compute, self.chunk, self.top, self.weights, self._slots, n)
        host = jax.tree.map(np.asarray, drawn)
        finished = []
        for slot in sorted(self._going):
            for i in range(self.chunk):
                if slot not in self._going or host.tokens[i, slot] == NO_TOKEN:
                    break
                finished += self._take(slot, jax.tree.map(lambda a, i=i: a[i], host), slot)
        return finished

    def cancel(self, number: int) -> None:
        """Frees the slot of a request, if it has one."""
        for slot, g in list(self._going.items()):
            if g.number == number:
                self._release(slot)

    def so_far(self, number: int) -> Completion | None:
        """Returns what a request that is being continued has until now."""
        return next((g.done for g in self._going.values() if g.number == number), None)

    def _take(self, slot: int, drawn: Drawn, row: int) -> list[tuple[int, Completion]]:
        g = self._going[slot]
        if not self._keep(g, drawn, row):
            return []
        self._release(slot)
        return [(g.number, g.done)]

    def _keep(self, g: _Going, drawn: Drawn, row: int) -> bool:
        """Adds a token to a completion; returns whether it is finished with that."""
        token = int(drawn.tokens[row])
        g.done.tokens.append(token)
        if g.request.logprobs is not None:
            g.done.logprobs.append(float(drawn.logprobs[row]))
            top = zip(drawn.top_ids[row].tolist(), drawn.top_logprobs[row].tolist())
            g.done.top.append(list(top)[: g.request.logprobs])
        return self._ended(g, token)

    def _ended(self, g: _Going, token: int) -> bool:
        stopped = token in g.request.stop_ids
        if g.request.stop_texts:
            assert self.decode is not None, "stop texts need a tokenizer"
            kept = g.done.tokens[:-1] if stopped else g.done.tokens
            text = text_after(self.decode, g.request.before, kept)
            cut = first_stop(text, g.request.stop_texts)
            g.done.text = text if cut is None else text[:cut]
            stopped |= cut is not None
        g.done.reason = "stop" if stopped else "length"
        return stopped or len(g.done.tokens) >= g.request.max_new_tokens

    def _release(self, slot: int) -> None:
        del self._going[slot]
        self._free.append(slot)
        self._slots = rest(self._slots, jnp.asarray(slot, jnp.int32))


def room_for(requests: Sequence[Request], shared: int = 0) -> int:
    """Returns the room of a slot that takes any of `requests`: what is written of a prompt is padded."""
    most = 64
    for r in requests:
        n = len(r.prompt)
        ahead = shared or (n - 1) // CHUNK * CHUNK
        most = max(most, n + r.max_new_tokens, rounded(ahead, 64) if ahead else 0)
        while ahead < n:
            part = min(CHUNK, n - ahead)
            most, ahead = max(most, ahead + rounded(part)), ahead + part
    return rounded(most)


def check_request(config: ModelConfig, request: Request, what: str) -> None:
    """Checks a request.

    Raises:
        JaxptError: an empty prompt, ids outside the vocabulary, fewer than one new token.
    """
    check_tokens(config, request.prompt, what)
    for i, _ in request.logit_bias:
        check_tokens(config, [i], f"{what}: its logit_bias")
    if request.max_new_tokens < 1:
        raise JaxptError(f"{what} asks for {request.max_new_tokens} new tokens, it must be at least 1")
