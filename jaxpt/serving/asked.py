"""What completions and chat completions ask for alike."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from jaxpt.generation import Request, Sampling
from jaxpt.serving.engine_thread import BIASES, ENDS
from jaxpt.serving.fields import RequestFields
from jaxpt.serving.limits import LONGEST_STOP, MOST_CHOICES, MOST_STOPS
from jaxpt.serving.refusal import Refusal
from jaxpt.serving.vocabulary import ServedVocabulary

# Keys that clients send and that change no answer.
IGNORED = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
)
# Keys that would change the answer, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "repetition_penalty": (1, 1.0),
    "length_penalty": (1, 1.0),
    "best_of": (1,),
    "use_beam_search": (False,),
    "num_beams": (1,),
    "min_p": (0, 0.0),
    "min_tokens": (0,),
    "include_stop_str_in_output": (False,),
    "spaces_between_special_tokens": (True,),
}
LEAST_TEMPERATURE = 1e-3  # below it logits become infinite


@dataclass(frozen=True)
class ContinuationOptions:
    """The options of a continuation; `max_tokens` None: the route's own default."""

    n: int
    max_tokens: int | None
    sampling: Sampling
    seed: int
    stop_ids: tuple[int, ...]
    stops: tuple[str, ...]
    bias: tuple[tuple[int, float], ...]
    skip_special: bool
    stream: bool
    include_usage: bool

    def requests(
        self, vocabulary: ServedVocabulary, prompt: Sequence[int], new: int, logprobs: int | None
    ) -> list[Request]:
        """Returns what the engine is asked: `n` continuations of `new` tokens, none where that is 0."""
        if not new:
            return []
        return [
            Request(
                prompt,
                new,
                self.sampling,
                self.seed,
                stream,
                self.stop_ids,
                self.stops,
                logprobs,
                self.bias,
                vocabulary.before(prompt),
            )
            for stream in range(self.n)
        ]


def read_asked(fields: RequestFields, vocabulary: ServedVocabulary, max_tokens: int | None) -> ContinuationOptions:
    """Returns the options of a request.

    Args:
        fields: of the request.
        vocabulary: whose ends stop a continuation.
        max_tokens: what the route has read.

    Raises:
        Refusal: a key has a wrong value.
    """
    seed = fields.integer("seed", None, -(2**63), 2**63 - 1)
    temperature = fields.number("temperature", 1.0, 0.0, 100.0)
    if 0 < temperature < LEAST_TEMPERATURE:
        fields.refuse("temperature", temperature, f"0 (the likeliest token) or at least {LEAST_TEMPERATURE:g}")
    top_p = fields.number("top_p", 1.0, 0.0, 1.0)
    if top_p == 0:
        fields.refuse("top_p", top_p, "above 0 and at most 1")
    top_k = fields.integer("top_k", 0, -1, 2**31 - 1) or 0
    stop_ids = fields.ids("stop_token_ids", MOST_STOPS)
    ends = () if fields.flag("ignore_eos", False) else vocabulary.ends
    stream = fields.flag("stream", False)
    options = RequestFields(fields.mapping("stream_options"))
    include_usage = options.flag("include_usage", False)
    options.close(("include_obfuscation",), {"continuous_usage_stats": (False,)})
    return ContinuationOptions(
        n=fields.integer("n", 1, 1, MOST_CHOICES) or 1,
        max_tokens=max_tokens,
        sampling=Sampling(temperature, max(0, top_k), top_p),
        seed=(secrets.randbits(31) if seed is None else seed) % 2**31,
        stop_ids=tuple(dict.fromkeys([*ends, *stop_ids]))[:ENDS],
        stops=fields.texts("stop", MOST_STOPS, LONGEST_STOP),
        bias=_bias(fields, vocabulary.size),
        skip_special=fields.flag("skip_special_tokens", True),
        stream=stream,
        include_usage=include_usage,
    )


def _bias(fields: RequestFields, size: int) -> tuple[tuple[int, float], ...]:
    given = fields.mapping("logit_bias")
    if len(given) > BIASES:
        raise Refusal(400, f"logit_bias has {len(given)} entries, at most {BIASES} are taken", param="logit_bias")
    out: dict[int, float] = {}
    for key, value in given.items():
        number = not isinstance(value, bool) and isinstance(value, (int, float)) and -100 <= value <= 100
        if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < size and number):
            fields.refuse("logit_bias", {key: value}, f"of token ids below {size} and numbers from -100 to 100")
        out[int(key)] = float(value)
    return tuple(out.items())
