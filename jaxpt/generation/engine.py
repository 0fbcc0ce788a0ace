"""One engine under commands, evaluation and serving: a model laid out once, which continues and judges."""

import contextlib
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpt.errors import JaxptError
from jaxpt.generation.continuing import Continuing, check_request, room_for
from jaxpt.generation.detokenize import Decode
from jaxpt.generation.judging import Asked, ContextRow, batches, placed, rows_with, shared_runs
from jaxpt.generation.passes import Prefix, TokenRows, judged, run, taken
from jaxpt.generation.prefixes import CHUNK, Prefixes, common_length
from jaxpt.generation.reading import PromptReader
from jaxpt.generation.requests import Completion, Request, Scored, check_tokens
from jaxpt.generation.shapes import power_of_two
from jaxpt.generation.weights import held_compute, lay_out
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.params import Params
from jaxpt.sharding.platform import platform
from jaxpt.sharding.rules import BATCH

HEADS_AT_ONCE = (16, 64, 256)  # streams whose logits are computed together: each a program


class InferenceEngine:
    """A model laid out for generation (`jaxpt.generation.weights`); the given parameters are not kept.

    `generate` continues prompts, `score` gives the log-probabilities of continuations. Both take any number of requests
    and call back as each is done, so that a caller can keep it. `continuing` gives the slots themselves, for a caller
    to whom requests come over time.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        compute: Compute = Compute(),  # noqa: B008
        *,
        decode: Decode | None = None,
        mesh: Mesh | None = None,
        slots: int | None = None,
        batch_tokens: int | None = None,
    ):
        """Lays the weights out.

        Args:
            config: the model.
            params: its parameters, on one device or sharded over `mesh`.
            compute: dtypes; on a CPU bfloat16 weights are held as float32.
            decode: ids to text, for stop texts.
            mesh: that the parameters are sharded over; None: one device, or the mesh in force.
            slots: prompts continued at once, at most; default 8 on a CPU, else 64.
            batch_tokens: tokens judged at once; default 2,048 on a CPU, else 16,384.
        """
        self.config, self.mesh, self.decode = config, mesh, decode
        with self.on_mesh():
            small = platform() == "cpu"
            self.compute = held_compute(compute)
            self.weights = lay_out(config, params, compute)
        self.slots = slots or (8 if small else 64)
        self.batch_tokens = batch_tokens or (2048 if small else 16_384)
        self._prefixes = Prefixes(config, self.weights, self.compute)

    def continuing(
        self, slots: int, room: int, *, chunk: int = 8, ends: int = 1, biases: int = 0, top: int | None = None
    ) -> Continuing:
        """Returns empty slots; see `Continuing`."""
        return Continuing(
            self.config,
            self.weights,
            self.compute,
            slots=slots,
            room=room,
            chunk=chunk,
            ends=ends,
            biases=biases,
            top=top,
            decode=self.decode,
        )

    def reader(self, prompt: Sequence[int], *, top: int | None = None, most: int = 1) -> PromptReader:
        """Returns a reader of one prompt; see `PromptReader`."""
        return PromptReader(self.config, self.weights, self.compute, prompt, top=top, most=most)

    def generate(
        self,
        requests: Sequence[Request],
        done: Callable[[int, Completion], None] = lambda *_: None,
        *,
        share_prefix: bool = False,
    ) -> list[Completion]:
        """Returns the completion of each request; a slot that is free takes the next one.

        Args:
            requests: prompts with their options.
            done: called with the number of each request that is finished, and its completion.
            share_prefix: compute what all prompts begin with once. The last bits of a float32 may then differ from
                those of the request alone.

        Raises:
            JaxptError: an empty prompt, ids outside the vocabulary, stop texts without a tokenizer.
        """
        for i, request in enumerate(requests):
            check_request(self.config, request, f"prompt {i}")
            if request.stop_texts and self.decode is None:
                raise JaxptError(f"prompt {i} has stop texts, which need a tokenizer; the model has none")
        if not requests:
            return []
        shared = _shared_beginning([r.prompt for r in requests]) if share_prefix else 0
        tops = [r.logprobs for r in requests if r.logprobs is not None]
        out: dict[int, Completion] = {}
        with self.on_mesh():
            slots = self.continuing(
                min(self.slots, power_of_two(len(requests))),
                room_for(requests, shared),
                ends=max(len(r.stop_ids) for r in requests),
                biases=power_of_two(most) if (most := max(len(r.logit_bias) for r in requests)) else 0,
                top=max(tops, default=None),
            )
            waiting = list(range(len(requests)))[::-1]
            while waiting or slots.going:
                finished = []
                while waiting and slots.free:
                    number = waiting.pop()
                    finished += slots.admit(number, requests[number], shared)
                for number, completion in [*finished, *slots.advance()]:
                    out[number] = completion
                    done(number, completion)
        return [out[i] for i in range(len(requests))]

    def score(
        self,
        asked: Sequence[tuple[Sequence[int], Sequence[int]]],
        done: Callable[[int, Scored], None] = lambda *_: None,
    ) -> list[Scored]:
        """Returns the log-probabilities of each continuation after its context, and which of its tokens were greedy.

        A context is read once for all its continuations, which cannot see each other; what many contexts begin with is
        read once for all of them.

        Args:
            asked: (context, continuation), each at least one token; together they may have one token more than the
                model has positions.
            done: called with the number of each that is done, and its result.

        Raises:
            JaxptError: no tokens, or ids outside the vocabulary.
        """
        open_: list[Asked] = []
        for i, (context, continuation) in enumerate(asked):
            check_tokens(self.config, context, f"context {i}")
            check_tokens(self.config, continuation, f"continuation {i}")
            open_.append(Asked(i, tuple(map(int, context)), tuple(map(int, continuation))))
        made = [(np.full(len(a.continuation), np.nan, np.float32), np.zeros(len(a.continuation), bool)) for a in open_]
        missing = [len(a.continuation) for a in open_]
        ways = math.prod(self.mesh.shape[a] for a in BATCH) if self.mesh is not None else 1
        with self.on_mesh():
            for tokens, rows in shared_runs(rows_with(open_)):
                prefix = self._prefixes.of(tokens) if tokens else None
                for some, count, length in batches(rows, self.batch_tokens, ways):
                    for number, nth, log_prob, greedy in self._judge(some, count, length, prefix):
                        made[number][0][nth], made[number][1][nth] = log_prob, greedy
                        missing[number] -= 1
                        if not missing[number]:
                            done(number, Scored(*made[number]))
        return [Scored(*pair) for pair in made]

    def _judge(
        self, rows: Sequence[ContextRow], count: int, length: int, prefix: Prefix | None
    ) -> list[tuple[int, int, float, bool]]:
        p = placed(rows, count, length)
        x, _ = run(self.config, self.weights, self.compute, self._rows(p.tokens, p.positions, p.branches), prefix)
        places, which = np.unique(p.places, return_inverse=True)
        out: list[tuple[int, int, float, bool]] = []
        for at in range(0, len(places), HEADS_AT_ONCE[-1]):
            some = places[at : at + HEADS_AT_ONCE[-1]]
            room = next(n for n in HEADS_AT_ONCE if n >= len(some))
            streams = taken(x, jnp.asarray(np.pad(some, (0, room - len(some)))))
            mine = np.flatnonzero((which >= at) & (which < at + len(some)))
            for begin in range(0, len(mine), 4 * room):
                part = mine[begin : begin + 4 * room]
                fill = (0, 4 * room - len(part))
                index, target = np.pad(which[part] - at, fill), np.pad(p.targets[part], fill)
                found = judged(
                    self.config, self.compute, self.weights.outer, streams, jnp.asarray(index), jnp.asarray(target)
                )
                log_probs, greedy = (np.asarray(a)[: len(part)].tolist() for a in found)
                out += zip(p.numbers[part].tolist(), p.nth[part].tolist(), log_probs, greedy)
        return out

    def _rows(self, *arrays: np.ndarray) -> TokenRows:
        if self.mesh is None:
            return TokenRows(*map(jnp.asarray, arrays))
        where = NamedSharding(self.mesh, PartitionSpec(BATCH))
        return TokenRows(*(jax.device_put(a, where) for a in arrays))

    def on_mesh(self) -> contextlib.AbstractContextManager[object]:
        """A context in which the mesh is in force, which `continuing` and `reader` need."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)


def _shared_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, at least one of each left over; 0 where that would not pay."""
    if len(prompts) < 2:
        return 0
    common = min(common_length(prompts[0], p) for p in prompts[1:])
    common = min(common, *(len(p) - 1 for p in prompts))
    return common if common >= min(64, CHUNK) else 0
