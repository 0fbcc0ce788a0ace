"""The scorers that a task file may name, a file each."""
