"""From what a person writes, a Python file and flags, to checked frozen dataclasses."""
