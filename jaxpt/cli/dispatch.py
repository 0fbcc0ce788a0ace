"""From `PROGRAM NAME ARGS` to the module of that name: shared by `jaxpt` and `jaxpt-data`."""

import argparse
import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from jaxpt.cli.visible import visible_output
from jaxpt.errors import JaxptError, nearest

OVERRIDE = ("--config.", "--noconfig.")  # how a flag begins that changes the config
LONGEST = 2000  # characters of the line that reports a mistake


class _HelpConfig(argparse.Action):
    """Prints the keys of a config, as `--help` prints the flags."""

    def __init__(self, *, config: type, **more: Any):
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

        print(describe(self._config, str(values or "")))
        parser.exit()


class Parser(argparse.ArgumentParser):
    """Flags of a sub-command; a mistake in them is one line that names the nearest flag or choice, and exit code 2."""

    def __init__(self, program: str, description: str, example: str = "", config: type | None = None):
        """Takes the command's full name, its one-line help and an example, printed as it is written.

        A command with a config gives the dataclass that states its keys, and has `--help-config` then.
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


class Command(NamedTuple):
    """A sub-command: what runs it with its arguments, and its one-line help."""

    main: Callable[[Sequence[str]], int]
    help: str


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
        The exit code: 0 done, 1 a mistake, reported in one line, 2 wrong usage, 130 interrupted.
    """
    modules = {m.name.rstrip("_").replace("_", "-"): m.name for m in pkgutil.iter_modules(commands.__path__)}
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
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

    if not args or args[0] in ("-h", "--help"):
        print(f"usage: {program} COMMAND …     ({program} COMMAND --help shows more)\n")
        width = max(len(n) for n in modules) + 2
        print("\n".join(f"  {name:<{width}}{command(name).help}" for name in sorted(modules)))
        return 0 if args else 2
    name, rest = args[0], args[1:]
    if name.replace("_", "-") in modules:  # as a pipeline, where a name is that of its file, writes it
        name = name.replace("_", "-")
    elif not (":" in name and choose is not None):
        hint = nearest(name, modules) or f"; commands: {', '.join(sorted(modules))}"
        print(f"{program}: there is no command {name!r}{hint}", file=sys.stderr)
        return 2
    with visible_output():
        try:
            return command(name).main(rest)
        except (JaxptError, OSError) as error:
            if debug:
                raise
            print(f"{program} {name}: {_one_line(error)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(f"{program} {name}: interrupted", file=sys.stderr)
            return 130


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
