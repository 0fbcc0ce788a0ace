"""What is minimised: each objective is a file of this room, a frozen dataclass that inherits `Objective`."""
