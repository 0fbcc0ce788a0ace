"""The learning-rate schedules: a file each, whose name is what a config calls it."""
