"""A data step that reads documents of strangers: what one of them may take is an option of every such step."""

from dataclasses import dataclass, fields

from data_tools.pipelines.step import DataStep
from jaxpt.config.choice import option
from jaxpt.data.caps import RAW, Caps


@dataclass(frozen=True, kw_only=True)
class DocumentStep(DataStep):
    """What a data step inherits that opens its input with `open_shards(…, caps=self.caps)`."""

    largest_record: int = option(RAW.largest_record, "bytes of a line, page or value; a longer one goes to quarantine")
    largest_page: int = option(RAW.largest_page, "bytes of a page of Parquet; with a larger one its rows go there")
    deepest_json: int = option(RAW.deepest_json, "lists and objects in each other; a deeper line goes there")
    deepest_html: int = option(RAW.deepest_html, "elements in each other; a deeper page goes there")

    def __post_init__(self) -> None:
        self.caps  # noqa: B018  what cannot be is refused before anything is read

    @property
    def caps(self) -> Caps:
        """How much one record may take."""
        return Caps(**{field.name: getattr(self, field.name) for field in fields(Caps)})
