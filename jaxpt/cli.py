"""The `jaxpt` command: finds the sub-command's module and turns mistakes into one line."""

import importlib
import pkgutil
import sys
from collections.abc import Sequence

from jaxpt import commands
from jaxpt.errors import JaxptError, nearest


def names() -> list[str]:
    """Sub-commands: the modules of `jaxpt.commands`, `import_` being spelled `import`."""
    return sorted(m.name.rstrip("_") for m in pkgutil.iter_modules(commands.__path__))


def _module(name: str):
    modules = {m.name.rstrip("_"): m.name for m in pkgutil.iter_modules(commands.__path__)}
    return importlib.import_module(f"jaxpt.commands.{modules[name]}")


def usage() -> str:
    """The text of `jaxpt --help`: one line per sub-command."""
    lines = [f"  {name:<10}{_module(name).HELP}" for name in names()]
    return "\n".join(["usage: jaxpt COMMAND …     (jaxpt COMMAND --help tells more)", "", *lines])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `jaxpt NAME ARGS` and returns the exit code: 0 done, 1 a mistake told in one line, 2 wrong usage."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0 if args else 2
    name, rest = args[0], args[1:]
    if name not in names():
        hint = nearest(name, names()) or f"; commands: {', '.join(names())}"
        print(f"jaxpt: there is no command {name!r}{hint}", file=sys.stderr)
        return 2
    try:
        return _module(name).main(rest)
    except (JaxptError, OSError) as error:
        if debug:
            raise
        print(f"jaxpt {name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"jaxpt {name}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
