"""From `PROGRAM NAME ARGS` to the module of that name: shared by `jaxpt` and `jaxpt-data`."""

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType

from jaxpt.errors import JaxptError, nearest


def dispatch(program: str, commands: ModuleType, argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command: the module of `commands` with that name, its `main(argv)`.

    A module may end in an underscore where its name is a Python keyword (`import_`), and has underscores for hyphens.

    Returns:
        The exit code: 0 done, 1 a mistake told in one line, 2 wrong usage, 130 interrupted.
    """
    modules = {m.name.rstrip("_").replace("_", "-"): m.name for m in pkgutil.iter_modules(commands.__path__)}
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]

    def module(name: str) -> ModuleType:
        return importlib.import_module(f"{commands.__name__}.{modules[name]}")

    if not args or args[0] in ("-h", "--help"):
        print(f"usage: {program} COMMAND …     ({program} COMMAND --help tells more)\n")
        width = max(len(n) for n in modules) + 2
        print("\n".join(f"  {name:<{width}}{module(name).HELP}" for name in sorted(modules)))
        return 0 if args else 2
    name, rest = args[0], args[1:]
    if name not in modules:
        hint = nearest(name, modules) or f"; commands: {', '.join(sorted(modules))}"
        print(f"{program}: there is no command {name!r}{hint}", file=sys.stderr)
        return 2
    try:
        return module(name).main(rest)
    except (JaxptError, OSError) as error:
        if debug:
            raise
        print(f"{program} {name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program} {name}: interrupted", file=sys.stderr)
        return 130
