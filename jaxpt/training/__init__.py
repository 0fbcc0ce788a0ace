"""The run: state, step, stages, checkpoints, metrics, loop."""
