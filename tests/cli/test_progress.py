"""What a bar says of the time left."""

import pytest

from jaxpt.cli.terminal import leave_out, progress


def after_a_compilation(left_out):
    """The bar after 10 of 1,000 units that took 100 s, and 90 that took 9 s."""
    bar = progress(1000, "train")
    for units, seconds in ((10, 100.0), (90, 9.0)):
        bar.start_t -= seconds
        if left_out and units == 10:
            leave_out(bar, units, seconds)
        bar.n += units
    shown = bar.format_meter(**bar.format_dict)
    bar.close()
    return shown


def test_the_time_left_ignores_the_compilation():
    assert "<01:30," in after_a_compilation(left_out=True)


def test_it_would_not_by_itself():  # the proof above can fail
    assert "<16:2" in after_a_compilation(left_out=False)


@pytest.mark.parametrize("units", [0, 5])
def test_a_bar_that_shows_nothing_is_left_as_it_is(units):
    bar = progress(10, "train", quiet=True)
    leave_out(bar, units, 1.0)
    assert bar.n == 0
