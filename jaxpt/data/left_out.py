"""Records of an input that are not read: each is noted, reading goes on, and too many of them stop it."""

from collections.abc import Callable, Iterator

from jaxpt.data.documents import Fields
from jaxpt.data.text_files import LeftOut
from jaxpt.errors import JaxptError

LIMIT = 0.1  # share of the records that may be left out
FEW = 10  # records left out: fewer are no reason to stop while others were read
HOPELESS = 1000  # records left out before a single one was read: the rest of the input is not looked at


class Reading:
    """Counts what is read of an input and what is left out, which it gives on to `note`."""

    def __init__(self, note: Callable[[LeftOut], object], limit: float):
        self._note, self._limit = note, limit
        self.read = self.left_out = 0
        self._first = ""

    def aside(self, record: LeftOut) -> None:
        """Notes a record that is left out.

        Raises:
            JaxptError: it is one of `HOPELESS`, and none was read.
        """
        self._first = self._first or f"{record.place}: {record.reason}"
        self.left_out += 1
        self._note(record)
        if not self.read and self.left_out >= HOPELESS:
            raise self._none_read()

    def counted(self, documents: Iterator[Fields]) -> Iterator[Fields]:
        """Yields the documents, and raises at their end where too many records were left out.

        Raises:
            JaxptError: more than the limit, or all of them.
        """
        for document in documents:
            self.read += 1
            yield document
        if self.left_out and not self.read:
            raise self._none_read()
        records = self.left_out + self.read
        if self.left_out >= FEW and self.left_out > self._limit * records:
            raise JaxptError(
                f"{self.left_out / records:.1%} of the records could not be read (quarantine_limit={self._limit:g}; "
                f"the first is {self._first}); mend them with jaxpt-data clean, or raise quarantine_limit"
            )

    def _none_read(self) -> JaxptError:
        return JaxptError(f"none of {self.left_out:,} records could be read; the first is {self._first}")
