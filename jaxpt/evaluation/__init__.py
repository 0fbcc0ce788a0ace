"""Perplexity and bits per byte of held-out documents."""
