"""Bits per byte and perplexity, generation."""

from jaxpt.evaluation.bits_per_byte import Result, bits_per_byte, evaluation_hook
from jaxpt.evaluation.generation import Sampling, generate

__all__ = ["Result", "Sampling", "bits_per_byte", "evaluation_hook", "generate"]
