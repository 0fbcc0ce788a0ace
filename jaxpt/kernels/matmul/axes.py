"""Which dimensions of a factor are summed over."""


def first(count: int) -> tuple[int, ...]:
    """Returns the first so many dimensions."""
    return tuple(range(count))


def last(ndim: int, count: int) -> tuple[int, ...]:
    """Returns the last so many of `ndim` dimensions."""
    return tuple(range(ndim - count, ndim))
