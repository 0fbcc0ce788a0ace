"""Schedules, optimizers (optax, built from the axis table) and freezing: pure functions over pytrees."""
