"""What a server allows: sizes, counts and times, in one place."""

from dataclasses import dataclass

MOST_CHOICES = 128  # n
MOST_STOPS = 64  # stop texts, and ids
LONGEST_STOP = 500  # characters
DEEPEST = 64  # levels of a request's JSON
HEAD_SECONDS = 20.0  # until a request's line and headers are there
BODY_SECONDS = 30.0  # until its body is there
CONNECTIONS = 500  # open at once


@dataclass(frozen=True)
class ServingLimits:
    """Of one server: bytes of a body, continuations that may wait, seconds that a request may take."""

    body: int = 8 << 20
    waiting: int = 512
    seconds: float = 600.0
