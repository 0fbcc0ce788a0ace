"""How much one record of a stranger's file may take: what is larger is left out with its place, the rest is read."""

from dataclasses import dataclass, fields
from typing import Self

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError

MOST = {"deepest_json": 500}  # Python's own parser and writer of JSON go little deeper


@dataclass(frozen=True)
class Caps:
    """The caps of one reading; `Caps()` are those of text that is tokenized, `RAW` those of text that is not yet.

    Raises:
        JaxptError: one is below 1, or above what can be read.
    """

    largest_record: int = option(8 << 20, "bytes of a line, page or value; a longer one is left out")
    largest_page: int = option(256 << 20, "bytes of a page of Parquet; a row group with a larger one is left out")
    deepest_json: int = option(200, "lists and objects of a line in each other; a deeper one is left out")
    deepest_html: int = option(1000, "elements of a page in each other; a deeper one is left out")

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 1:
                raise JaxptError(f"{field.name}={value} must be at least 1")
            if value > MOST.get(field.name, value):
                raise JaxptError(f"{field.name}={value} must be at most {MOST[field.name]}")

    def changed_from(self, default: Self) -> dict[str, int]:
        """Returns the caps that are not those of `default`, by name: what is noted where they decide an output."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(default, name)}


CAPS = Caps()  # tokenizers take some 150 bytes of memory for each byte
RAW = Caps(largest_record=64 << 20)
