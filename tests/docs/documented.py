"""Every command that README, docs and `--help` show: where it stands, and whether it is marked to be run.

In Markdown a command stands in a fence of its own:

    ```bash run                     the commands run in this order, in one folder, as they are written
    ```bash not run: REASON         they cannot run here

Whatever looks like a command elsewhere is a stray one. In a help text every line of the examples is a command.
"""

import contextlib
import functools
import importlib
import io
import pkgutil
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import data_tools.commands
import jaxpt.commands

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS: dict[str, ModuleType] = {"jaxpt": jaxpt.commands, "jaxpt-data": data_tools.commands}
RUN, NOT_RUN = "bash run", "bash not run: "
OTHER_PROGRAMS = (
    r"make [a-z]|python3?(\.\d+)? -m |pip install|\S*/bin/python |launch/\S|sbatch |gcloud |export [A-Z]|git clone"
)


@dataclass(frozen=True)
class Documented:
    """A command: as it is written, the page, the line, and why it is not run ("": it is)."""

    text: str
    page: str
    line: int
    reason: str = ""


def names(program: str) -> list[str]:
    """The commands of a program."""
    return [m.name.rstrip("_").replace("_", "-") for m in pkgutil.iter_modules(PROGRAMS[program].__path__)]


def looks_like_a_command(line: str) -> bool:
    """Whether a line of code begins like a command."""
    line = re.sub(r"^(\$ |[A-Z_]+=\S+ )*", "", line.strip())
    ours = "|".join(rf"{program} ({'|'.join(names(program))}|\w+:\w+|--)" for program in PROGRAMS)
    return re.match(rf"({ours})(?=\s|=|$)|({OTHER_PROGRAMS})", line) is not None


def pages() -> list[Path]:
    """The pages that are read by people; a new one in docs/ is among them."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def of_page(path: Path, text: str | None = None) -> tuple[list[Documented], list[str]]:
    """Returns the commands of a Markdown page, and the stray ones as `PAGE:LINE: TEXT`."""
    page = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    found, strays, info = [], [], None
    held, first = "", 0
    for number, line in enumerate((path.read_text(encoding="utf-8") if text is None else text).splitlines(), 1):
        if (fence := re.match(r"\s*```(.*)$", line)) is not None:
            info, held = (fence[1].strip() if info is None else None), ""
        elif info is not None and (info == RUN or info.startswith(NOT_RUN)):
            first = first if held else number
            held += line.strip().removesuffix("\\").strip() + " "
            if line.rstrip().endswith("\\"):
                continue
            if shlex.split(held, comments=True):
                found.append(Documented(held.strip(), page, first, info.removeprefix(NOT_RUN) if info != RUN else ""))
            held = ""
        elif (info is not None or line.startswith("    ")) and looks_like_a_command(line):
            strays.append(f"{page}:{number}: {line.strip()}")
    return found, strays


def inline(path: Path) -> Iterator[tuple[int, str, str, list[str]]]:
    """Yields (line, program, command, flags) of what stands in backticks within a sentence."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for program, command, rest in re.findall(r"`(jaxpt|jaxpt-data) ([a-z][\w-]*)((?: [^`]*)?)`", line):
            yield number, program, command, re.findall(r"--[\w-]+", rest)


@functools.cache
def help_text(program: str, command: str) -> str:
    """What `PROGRAM COMMAND --help` prints."""
    module = importlib.import_module(f"{PROGRAMS[program].__name__}.{_module(program, command)}")
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        module.main(["--help"])
    return out.getvalue()


def of_help(program: str, command: str) -> list[Documented]:
    """Returns the commands of a command's help."""
    found, held = [], ""
    for number, line in enumerate(help_text(program, command).splitlines(), 1):
        if held or re.match(rf"\s+({'|'.join(PROGRAMS)}) +[a-z]", line):
            held += line.strip().removesuffix("\\").strip() + " "
            if not line.rstrip().endswith("\\"):
                found.append(Documented(held.strip(), f"{program} {command} --help", number))
                held = ""
    return found


def _module(program: str, command: str) -> str:
    modules = {m.name.rstrip("_").replace("_", "-"): m.name for m in pkgutil.iter_modules(PROGRAMS[program].__path__)}
    return modules[command]
