"""SentencePiece and Hugging Face tokenizers behind one interface, fingerprints, chat templates."""

from jaxpt.tokenizers.interface import Tokenizer
from jaxpt.tokenizers.load import load
from jaxpt.tokenizers.train import train_sentencepiece

__all__ = ["Tokenizer", "load", "train_sentencepiece"]
