"""From `PROGRAM NAME ARGS` to the module of that name: shared by `jaxpt` and `jaxpt-data`."""

import argparse
import ast
import importlib
import os
import pkgutil
import platform
import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from jaxpt.cli.help_alone import asks_for_help, main_for_help
from jaxpt.cli.pipes import nobody_reads, quiet_when_closed
from jaxpt.cli.stopping import no_interrupt_lost
from jaxpt.cli.version import VERSION
from jaxpt.cli.visible import visible_output
from jaxpt.errors import JaxptError, nearest
from jaxpt.files.partial import user_line

_DEBUG = ContextVar("debug", default=False)  # whether mistakes, too, show a traceback
OVERRIDE = ("--config.", "--noconfig.")  # how a flag begins that changes the config
LONGEST = 2000  # characters of the line that reports a mistake


class _HelpConfig(argparse.Action):
    """Prints the keys of a config, as `--help` prints the flags."""

    def __init__(self, *, config: type | Callable[[], type], **more: Any):
        super().__init__(**more)
        self._config = config

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        from jaxpt.config.help import describe

        config = self._config if isinstance(self._config, type) else self._config()
        print(describe(config, str(values or "")))
        parser.exit()


class Parser(argparse.ArgumentParser):
    """Flags of a sub-command; a mistake in them is one line that names the nearest flag or choice, and exit code 2."""

    def __init__(
        self, program: str, description: str, example: str = "", config: type | Callable[[], type] | None = None
    ):
        """Takes the command's full name, its one-line help and an example, printed as it is written.

        A command with a config gives the dataclass that states its keys, or a function that returns it (`--help` alone
        then imports no room), and has `--help-config`.
        """
        self._flags: list[str] = []
        super().__init__(
            program,
            description=description,
            epilog=example,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if config is not None:
            self.add_argument(
                "--help-config",
                nargs="?",
                const="",
                metavar="SECTION",
                action=_HelpConfig,
                config=config,
                help="list every key of the config (or of one section, e.g. optimizer) and every choice, and stop",
            )

    def add_argument(self, *names: str, **facts: Any) -> argparse.Action:
        """As argparse's; a value that is not among `choices` is refused with the nearest of them."""
        if choices := facts.pop("choices", None):
            facts = {"metavar": "{" + ",".join(map(str, choices)) + "}", **facts, "type": _one_of(tuple(choices))}
        action = super().add_argument(*names, **facts)
        self._flags += action.option_strings
        return action

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parses `args`; an unknown flag is reported, with the flag it may have meant, before any that is missing."""
        self._check_flags(sys.argv[1:] if args is None else args, ())
        return super().parse_args(args, namespace)

    def parse_overrides(self, args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Parses `args` likewise; what overrides the config (`--config.key=value`) is returned unchanged."""
        self._check_flags(args, OVERRIDE)
        return self.parse_known_args(list(args))

    def _check_flags(self, args: Sequence[str], others: tuple[str, ...]) -> None:
        for word in args:
            name = word.partition("=")[0]
            if name == "--":
                break
            if name.startswith("--") and name not in self._flags and not name.startswith(others):
                self.error(f"there is no flag {name}{nearest(name, self._flags)}")

    def error(self, message: str) -> NoReturn:
        """Prints one line and exits with 2."""
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help shows more\n")


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    """Returns what takes one of `choices` and refuses any other text."""

    def take(value: str) -> str:
        if value not in choices:
            hint = nearest(value, choices)
            raise argparse.ArgumentTypeError(f"{value!r} is unknown{hint}; known: {', '.join(choices)}")
        return value

    return take


def help_of(source: str) -> str:
    """Returns the line of help of a command's module, read from its source: importing all takes seconds.

    It is what is assigned to `HELP`: a text, or `CLASS.summary()`, the first line of that class's docstring; nothing of
    a module without `HELP`, which has to be imported for it.
    """
    body = ast.parse(source).body
    values = [n.value for n in body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "HELP"]
    if values and isinstance(values[0], ast.Constant):
        return str(values[0].value)
    classes = {n.name: ast.get_docstring(n) for n in body if isinstance(n, ast.ClassDef)}
    name = ast.unparse(values[0]).partition(".")[0] if values else ""
    return first_line(classes.get(name) or "")


def file_of(module: str) -> Path:
    """Returns the file of a module, which is not imported."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def first_line(docstring: str) -> str:
    """Returns the first line of a docstring as a line of help."""
    line = docstring.strip().partition("\n")[0].rstrip(".")
    return line[:1].lower() + line[1:]


class Command(NamedTuple):
    """A sub-command: what runs it with its arguments, and its one-line help."""

    main: Callable[[Sequence[str]], int]
    help: str


@quiet_when_closed
def dispatch(
    program: str,
    commands: ModuleType,
    argv: Sequence[str] | None = None,
    choose: Callable[[str], Command] | None = None,
) -> int:
    """Runs a sub-command: the module of `commands` with that name, its `main(argv)`.

    A module may end in an underscore where its name is a Python keyword (`import_`), and has underscores for hyphens.
    One without `main` holds a choice, which `choose` returns.

    Args:
        program: `jaxpt` or `jaxpt-data`.
        commands: the package of the sub-commands.
        argv: the command line without the program; that of this process by default.
        choose: the command that a choice is, by its name: that of a file, or `package.module:Class` of the user's own.

    Returns:
        The exit code: 0 done, 1 a mistake, reported in one line, 2 wrong usage, 130 interrupted, 141 nobody reads on.

    Raises:
        Exception: a fault of ours, or any with `--debug`.
    """
    modules = {m.name.rstrip("_").replace("_", "-"): m.name for m in pkgutil.iter_modules(commands.__path__)}
    args = list(sys.argv[1:] if argv is None else argv)
    _DEBUG.set("--debug" in args)
    args = [a for a in args if a != "--debug"]
    if os.getcwd() not in sys.path:  # for `module:Class` of one's own; last, so that it hides no installed module
        sys.path.append(os.getcwd())

    def command(name: str) -> Command:
        if name in modules:
            module = importlib.import_module(f"{commands.__name__}.{modules[name]}")
            if choose is None or hasattr(module, "main"):
                return Command(module.main, module.HELP)
        assert choose is not None
        return choose(modules.get(name, name))

    def main_of(name: str) -> Callable[[Sequence[str]], int]:
        module = f"{commands.__name__}.{modules[name]}" if name in modules and asks_for_help(rest) else ""
        return (main_for_help(file_of(module)) if module else None) or command(name).main

    if args[:1] in (["--version"], ["-V"]):
        print(f"{program} {VERSION}, JAX {version('jax')}, Python {platform.python_version()}")
        return 0
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: {program} COMMAND …     ({program} COMMAND --help shows more; {program} --version)\n")
        width = max(len(n) for n in modules) + 2
        files = {name: file_of(f"{commands.__name__}.{module}") for name, module in modules.items()}
        helps = {n: help_of(file.read_text(encoding="utf-8")) or command(n).help for n, file in files.items()}
        print("\n".join(f"  {name:<{width}}{helps[name]}" for name in sorted(modules)))
        return 0 if args else 2
    name, rest = args[0], args[1:]
    if name.replace("_", "-") in modules:  # as a pipeline, where a name is that of its file, writes it
        name = name.replace("_", "-")
    elif not (":" in name and choose is not None):
        hint = nearest(name, modules) or f"; commands: {', '.join(sorted(modules))}"
        print(f"{program}: there is no command {name!r}{hint}", file=sys.stderr)
        return 2
    return mistakes_in_a_line(f"{program} {name}", lambda: main_of(name)(rest))


def mistakes_in_a_line(name: str, call: Callable[[], int]) -> int:
    """Returns the exit code of `call`, which its lines name so: 1 for a mistake, 130 for Ctrl-C, both in a line."""
    with visible_output():
        try:
            with no_interrupt_lost():
                return call()
        except JaxptError as error:
            if _DEBUG.get():
                raise
            line = " ".join(str(error).split())
        except OSError as error:
            shown = user_line(error)
            if _DEBUG.get() or shown is None or nobody_reads(error):
                raise
            line = shown
        except KeyboardInterrupt:
            print(f"{name}: interrupted", file=sys.stderr)
            return 130
        print(f"{name}: {line if len(line) <= LONGEST else f'{line[:LONGEST]}…'}", file=sys.stderr)
        return 1
