"""`jaxpt-data pack`: text or tokenized documents into packed sources."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

from tqdm import tqdm

from data_tools.io.outputs import check_outputs
from data_tools.pipelines.step import DataStep
from data_tools.shards.rows import LIMIT, LIMIT_HELP
from jaxpt import tokenizers
from jaxpt.cli.terminal import progress, table
from jaxpt.config.choice import option
from jaxpt.data.build import Packing, build, build_tokenized
from jaxpt.data.caps import CAPS
from jaxpt.data.origins import open_origin
from jaxpt.data.packed import QUARANTINE, PackedSource
from jaxpt.data.tokenize import EOS_TOKEN, Selection
from jaxpt.data.tokenized import NOTE, TokenizedDocuments
from jaxpt.errors import JaxptError
from jaxpt.files.lock import Lock, beside
from jaxpt.tokenizers.chat import DATE
from jaxpt.tokenizers.fingerprints import accepts

EXAMPLE = """examples:
  jaxpt-data pack --input='text/*.jsonl.gz' --output=packed/web --tokenizer=TOKENIZER --sequence_length=4096
  jaxpt-data pack --input=text --output=packed/web_held_out --tokenizer=T --sequence_length=4096 \\
                  --part=held_out --held_out=0.01
  jaxpt-data pack --input=tokens --output=packed --sequence_length=4096 --by=source"""


@dataclass(frozen=True, kw_only=True)  # `kind` is also a name of `Choice`, whose place it takes
class Pack(DataStep):
    """Text or tokenized documents into packed sources of fixed-length token rows."""

    example: ClassVar[str] = EXAMPLE

    input: str = option(doc="JSONL, Parquet (globs, comma-separated), or the folder that `tokenize` wrote")
    output: str = option(doc="folder of the packed source; must not exist")
    sequence_length: int = option(doc="tokens in a row", aliases=("--sequence-length",))
    tokenizer: str | None = option(None, "directory, .model or tokenizer.json; not for tokenized documents")
    by: str | None = option(None, "a kept field of tokenized documents: one packed source for each value of it")
    packer: Literal["best_fit", "concat"] = option("best_fit", "how documents are laid into rows")
    kind: Literal["text", "chat"] = option("text", "chat: loss on the assistant's turns")
    template: str | None = option(None, "of a chat: plain, chatml or a .jinja file (default: the tokenizer's)")
    text_field: str | None = option(
        None, "where the text or the messages are (text, messages)", aliases=("--text-field",)
    )
    bos: bool = option(False, "begin each document with BOS")
    no_eos: bool = option(False, "do not end each document with EOS", aliases=("--no-eos",))
    eos_token: str | None = option(None, EOS_TOKEN, aliases=("--eos-token",))
    control_tokens: Literal["text", "tokens"] = option(
        "text", "what text that spells a control token (</s>) becomes: text, or tokens, which end a document"
    )
    largest_record: int = option(CAPS.largest_record, "bytes; a longer document is put into quarantine.jsonl")
    largest_page: int = option(CAPS.largest_page, "bytes of a page of Parquet; with a larger one its rows are too")
    deepest_json: int = option(CAPS.deepest_json, "lists and objects in each other; a deeper document is too")
    quarantine_limit: float = option(LIMIT, LIMIT_HELP, changes_output=False)
    date: str = option(DATE, "of a chat: what strftime_now says in a template, YYYY-MM-DD")
    part: Literal["all", "train", "held_out"] = option("all", "which of the documents")
    held_out: float = option(0.0, "share of documents held out", aliases=("--held-out",))
    group_field: str | None = option(
        None, "hold out by this field's value instead of by document", aliases=("--group-field",)
    )
    skip_existing: bool = option(False, "leave packed sources that are whole as they are", changes_output=False)
    take_over: bool = option(False, "a writer of --output on another machine is gone for good")
    format: Literal["packed", "tfds"] = option("packed", "tfds: also as a TFDS data set")

    def run(self) -> None:
        """Packs, and prints what came of it."""
        if self.sequence_length < 2:
            raise JaxptError(f"--sequence_length={self.sequence_length} must be at least 2")
        check_outputs({"--input": self.input}, {"--output": self.output})
        if "://" in self.output:
            raise JaxptError(f"--output={self.output} must be a local folder; copy the packed source there as it is")
        output = Path(self.output)
        with Lock(beside(output), output, "--output").acquire(self.take_over):
            self._pack()

    def in_pipeline(self) -> Self:
        """Returns the step so that it leaves packed sources of before as they are."""
        return replace(self, skip_existing=True)

    @property
    def makes_folder_itself(self) -> bool:
        """One packed source is renamed to `output` when it is whole."""
        return not self.by

    @property
    def _selection(self) -> Selection:
        return Selection(self.part, self.held_out, self.group_field)

    def _pack(self) -> None:
        tokenized = (Path(self.input) / NOTE).is_file() if "://" not in self.input else False
        packed = self._pack_tokenized() if tokenized else [self._pack_text()]
        if self.format == "tfds":
            from data_tools.io.tfds_export import export  # TFDS is an extra

            for source in packed:
                print(f"TFDS data set: {export(source)}")
        head = ["packed source", "rows", "tokens", "documents", "mean fill", "control tokens in texts", "fingerprint"]
        rows = [(str(s.path), s.rows, s.tokens, s.documents, s.mean_fill, _met(s), s.fingerprint[:16]) for s in packed]
        print(table(head, rows))
        for s in packed:
            if count := s.facts["options"].get("quarantined"):
                print(f"not packed: {count:,} records of {self.input}, see {s.path}/{QUARANTINE}")

    def _pack_text(self) -> PackedSource:
        if self.tokenizer is None:
            raise JaxptError(f"--tokenizer is missing; {self.input} holds text (only tokenized documents need none)")
        if self.by:
            raise JaxptError(f"--by={self.by} needs tokenized documents; run jaxpt-data tokenize first")
        packing = Packing(
            kind=self.kind,
            field=self.text_field,
            packer=self.packer,
            bos=self.bos or None,
            eos=False if self.no_eos else None,
            eos_token=self.eos_token,
            template=self.template,
            control_tokens=self.control_tokens,
            date=self.date,
            largest_record=self.largest_record,
            largest_page=self.largest_page,
            deepest_json=self.deepest_json,
            quarantine_limit=self.quarantine_limit,
            selection=self._selection,
        )
        if self._is_packed(Path(self.output)):
            return PackedSource.open(self.output)
        _check_new(self.output)
        origin = open_origin(self.input.split(",") if "," in self.input else self.input)
        tokenizer = tokenizers.load(self.tokenizer)
        with progress(origin.size, "pack", origin.unit, scale=True) as bar:
            report = _reporter(bar, lambda: origin.position)
            return build(origin, self.output, tokenizer, self.sequence_length, packing, report=report)

    def _pack_tokenized(self) -> list[PackedSource]:
        decided = [name for name in ("template", "bos", "no_eos", "eos_token") if getattr(self, name)]
        decided += [name for name in ("kind", "control_tokens") if getattr(self, name) != "text"]
        if decided:
            raise JaxptError(
                f"--{decided[0]} was decided when {self.input} was tokenized; give it to jaxpt-data tokenize"
            )
        documents = TokenizedDocuments(self.input)
        stored = documents.facts["tokenizer_fingerprint"]
        if self.tokenizer and not accepts(tokenizers.load(self.tokenizer), stored, self.input):
            raise JaxptError(f"--tokenizer={self.tokenizer} is not the tokenizer of {self.input}; leave it out")
        jobs: list[tuple[Path, tuple[str, str] | None]] = [(Path(self.output), None)]
        if self.by:
            named = _folders(documents.values(self.by, self._selection))
            jobs = [(Path(self.output) / name, (self.by, value)) for name, value in named.items()]
        for folder, _ in jobs:
            if not self._is_packed(folder):
                _check_new(folder)
        packed = []
        with progress(documents.size * (self.part != "held_out"), "pack", "tok", scale=True) as bar:
            done = 0

            def report(count: int, tokens: int) -> None:
                nonlocal done
                done += count
                bar.set_postfix_str(f"{done:,} docs", refresh=False)
                bar.update(tokens)

            for folder, where in jobs:
                if self._is_packed(folder):
                    packed.append(PackedSource.open(folder))
                    bar.update(packed[-1].tokens)
                    continue
                how = (self.sequence_length, self.packer, self._selection)
                packed.append(build_tokenized(documents, folder, *how, where=where, report=report))
        return packed

    def _is_packed(self, folder: Path) -> bool:
        return self.skip_existing and (folder / "source.json").is_file()


HELP = Pack.summary()
main = Pack.main


def _met(source: PackedSource) -> int:
    """How many control tokens the texts spell; what became of them is among the source's options."""
    count = source.facts["options"].get("control_tokens_met", 0)
    return count if isinstance(count, int) else 0


def _check_new(output: str | Path) -> None:
    """Refuses, before anything is read, what exists and would be refused when it is written."""
    if os.path.lexists(output):
        raise JaxptError(f"--output={output} exists; remove it or choose another folder")


def _folders(values: Sequence[str]) -> dict[str, str]:
    """Returns a folder's name for each value: letters, digits, dots and dashes of it."""
    out: dict[str, str] = {}
    for value in values:
        name = re.sub(r"[^\w.-]+", "_", value).strip("._") or "none"
        if name in out:
            raise JaxptError(f"--by: {value!r} and {out[name]!r} would both be packed into a folder {name}")
        out[name] = value
    return out


def _reporter(bar: tqdm, position: Callable[[], int]) -> Callable[[int, int], None]:
    counts = {"docs": 0, "tok": 0}

    def report(documents: int, tokens: int) -> None:
        counts["docs"] += documents
        counts["tok"] += tokens
        bar.set_postfix_str(f"{counts['docs']:,} docs, {counts['tok']:,} tok", refresh=False)
        bar.update(max(position() - bar.n, 0))

    return report
