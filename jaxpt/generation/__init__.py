"""Generation and scoring: one engine, which continues prompts of different lengths and judges continuations."""

from jaxpt.generation.engine import InferenceEngine
from jaxpt.generation.generate import generate
from jaxpt.generation.requests import Completion, Request, Scored
from jaxpt.generation.sampling import Sampling, filter_logits
from jaxpt.generation.text import continue_texts

__all__ = [
    "Completion",
    "InferenceEngine",
    "Request",
    "Sampling",
    "Scored",
    "continue_texts",
    "filter_logits",
    "generate",
]
