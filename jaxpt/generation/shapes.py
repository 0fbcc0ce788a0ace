"""The few lengths that programs are compiled for."""

_STEPS = (16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024)


def rounded(length: int, least: int = _STEPS[0]) -> int:
    """Returns the first length of a short list that is at least `length` and `least`; from 1,024 on whole halves of
    powers of two."""
    length = max(length, least)
    for step in _STEPS:
        if length <= step:
            return step
    power = 1024
    while True:
        for step in (power * 3 // 2, power * 2):
            if length <= step:
                return step
        power *= 2


def power_of_two(count: int) -> int:
    """Returns the smallest power of two that is at least `count`."""
    return 1 << max(0, count - 1).bit_length()
