"""Checkpoints of a run: written whole or not at all, read and verified without knowing how they were trained."""
