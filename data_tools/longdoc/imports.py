"""Which file of a repository imports which: read off the source text, resolved against the repository's paths."""

import re
from collections.abc import Callable, Mapping
from posixpath import basename, dirname, join, normpath, splitext

Resolver = Callable[[str, str, "Repository"], set[str]]

_PYTHON = re.compile(
    r"^[ \t]*(?:from[ \t]+(\.*[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n#;]+)|import[ \t]+([^\n#;]+))", re.M
)
_SCRIPT = re.compile(r"""(?:require\(\s*|from\s+|import\s+|import\(\s*)["'](\.{1,2}/[^"']+)["']""")
_GO_BLOCK = re.compile(r'^import\s*(?:\((.*?)\)|(?:[\w.]+\s+)?("[^"]+"))', re.M | re.S)
_QUOTED = re.compile(r'"([^"]+)"')
_RUST_MOD = re.compile(r"^[ \t]*(?:pub(?:\([^)]*\))?[ \t]+)?mod[ \t]+(\w+)[ \t]*;", re.M)
_RUST_USE = re.compile(r"\bcrate::(\w+(?:::\w+)*)")
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"', re.M)
_JAVA = re.compile(r"^[ \t]*import[ \t]+(?:static[ \t]+)?([\w.]+)", re.M)
_SCRIPT_ENDS = ("", ".js", ".ts", ".tsx", ".jsx", ".mjs", ".cjs", ".json", "/index.js", "/index.ts", "/index.tsx")


class Repository:
    """The paths of one repository and what resolving imports needs to know about them."""

    def __init__(self, files: Mapping[str, str]):
        """Takes path to text; paths use "/"."""
        self.files = files
        packages = {dirname(p) for p in files if basename(p) == "__init__.py"}
        roots = {""}
        for package in packages:
            while package and dirname(package) in packages:
                package = dirname(package)
            roots.add(dirname(package))
        self.python_roots = sorted(roots, key=len)
        self.by_name: dict[str, list[str]] = {}
        for path in files:
            self.by_name.setdefault(basename(path), []).append(path)
        self.go_modules = {}
        for path, text in files.items():
            named = re.search(r"^module\s+(\S+)", text, re.M) if basename(path) == "go.mod" else None
            if named:
                self.go_modules[named.group(1)] = dirname(path)

    def first(self, *candidates: str) -> set[str]:
        """Returns the first candidate path that exists, as a set of one or none."""
        for candidate in candidates:
            candidate = normpath(candidate)
            if candidate in self.files:
                return {candidate}
        return set()


def _python_module(base: str, dotted: str, repository: Repository) -> set[str]:
    path = join(base, *dotted.split(".")) if dotted else base
    return repository.first(path + ".py", join(path, "__init__.py"), path + ".pyi")


def _python(path: str, text: str, repository: Repository) -> set[str]:
    imported: set[str] = set()
    for module, names, plain in _PYTHON.findall(text):
        if plain:
            wanted = [(part.split()[0], None) for part in plain.split(",") if part.split()]
        else:
            wanted = [(module, name.split()[0]) for name in names.strip("() \t").split(",") if name.split()]
        for dotted, name in wanted:
            tail = dotted.lstrip(".")
            level = len(dotted) - len(tail)
            base = dirname(path)
            for _ in range(level - 1):
                base = dirname(base)
            for root in [base] if level else repository.python_roots:
                hit = _python_module(root, f"{tail}.{name}".strip("."), repository) if name else set()
                hit = hit or _python_module(root, tail, repository)
                imported |= hit
                if hit:
                    break
    return imported


def _script(path: str, text: str, repository: Repository) -> set[str]:
    imported: set[str] = set()
    for target in _SCRIPT.findall(text):
        place = join(dirname(path), target)
        imported |= repository.first(*(place + end for end in _SCRIPT_ENDS))
    return imported


def _go(path: str, text: str, repository: Repository) -> set[str]:
    imported: set[str] = set()
    for block, single in _GO_BLOCK.findall(text):
        for target in _QUOTED.findall(block or single):
            for module, root in repository.go_modules.items():
                if target == module or target.startswith(module + "/"):
                    folder = normpath(join(root, target[len(module) + 1 :])) if target != module else root
                    folder = "" if folder == "." else folder
                    imported |= {
                        p
                        for p in repository.files
                        if dirname(p) == folder and p.endswith(".go") and not p.endswith("_test.go")
                    }
    return imported


def _rust(path: str, text: str, repository: Repository) -> set[str]:
    stem = splitext(basename(path))[0]
    inside = dirname(path) if stem in ("mod", "lib", "main") else join(dirname(path), stem)
    imported: set[str] = set()
    for name in _RUST_MOD.findall(text):
        imported |= repository.first(join(inside, name + ".rs"), join(inside, name, "mod.rs"))
    parts = dirname(path).split("/")
    root = "/".join(parts[: len(parts) - parts[::-1].index("src")]) if "src" in parts else dirname(path)
    for dotted in _RUST_USE.findall(text):
        names = dotted.split("::")
        for length in range(len(names), 0, -1):
            place = join(root, *names[:length])
            hit = repository.first(place + ".rs", join(place, "mod.rs"))
            if hit:
                imported |= hit
                break
    return imported


def _c(path: str, text: str, repository: Repository) -> set[str]:
    imported: set[str] = set()
    for target in _INCLUDE.findall(text):
        hit = repository.first(join(dirname(path), target), target, join("include", target), join("src", target))
        named = [p for p in repository.by_name.get(basename(target), []) if p.endswith("/" + target)]
        imported |= hit or (set(named) if len(named) == 1 else set())
    return imported


def _java(path: str, text: str, repository: Repository) -> set[str]:
    imported: set[str] = set()
    for dotted in _JAVA.findall(text):
        tail = dotted.replace(".", "/") + splitext(path)[1]
        imported |= {p for p in repository.by_name.get(basename(tail), []) if p == tail or p.endswith("/" + tail)}
    return imported


RESOLVERS: dict[str, Resolver] = {
    **dict.fromkeys((".py", ".pyi"), _python),
    **dict.fromkeys((".js", ".jsx", ".ts", ".tsx", ".mjs", ".cjs"), _script),
    ".go": _go,
    ".rs": _rust,
    **dict.fromkeys((".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".hh", ".cu", ".cuh"), _c),
    **dict.fromkeys((".java", ".kt", ".scala"), _java),
}


def dependencies(files: Mapping[str, str]) -> dict[str, set[str]]:
    """Returns, for every path, the paths of the same repository that it imports (never itself)."""
    repository = Repository(files)
    out = {}
    for path, text in files.items():
        resolver = RESOLVERS.get(splitext(path)[1].lower())
        out[path] = (resolver(path, text, repository) if resolver else set()) - {path}
    return out
