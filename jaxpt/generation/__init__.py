"""Generation: sampling, the key-value cache, batches of prompts of different lengths."""

from jaxpt.generation.generate import generate
from jaxpt.generation.sampling import Sampling, filter_logits
from jaxpt.generation.text import continue_texts

__all__ = ["Sampling", "continue_texts", "filter_logits", "generate"]
