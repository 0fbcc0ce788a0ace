"""Schedules, optimizers, clipping and freezing: pure functions over pytrees."""
