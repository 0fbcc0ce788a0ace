"""Shards: the runner that takes batches through a step, writes what stays and records what went."""
