"""Bits per byte of held-out documents, generation."""
