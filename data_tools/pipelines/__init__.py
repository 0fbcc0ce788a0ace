"""Pipelines: steps in order, what is done and what is left."""
