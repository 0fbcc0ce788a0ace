"""What a choice of kernel depends on besides its shapes: the card, and the versions of the libraries with kernels."""

import importlib.metadata

ARCHITECTURES = {  # by what an NVIDIA card calls itself: its compute capability, as 90 for 9.0
    "A100": 80,
    "A800": 80,
    "L4": 89,
    "L40": 89,
    "RTX 40": 89,
    "RTX 6000 Ada": 89,
    "GH200": 90,
    "H100": 90,
    "H200": 90,
    "H800": 90,
    "H20": 90,
    "B100": 100,
    "B200": 100,
    "B300": 103,
}
LIBRARIES = ("jax", "jaxlib", "libtpu", "tokamax", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")  # where kernels come from

Versions = tuple[tuple[str, str], ...]  # name and version of each library; one that is not installed is left out


def architecture(device_kind: str) -> int | None:
    """Returns the compute capability of an NVIDIA card, as 90 for 9.0; None for one that is not in `ARCHITECTURES`."""
    return next((found for name, found in ARCHITECTURES.items() if name in device_kind), None)


def written(version: tuple[int, ...]) -> str:
    """Returns "0.11.2" for (0, 11, 2)."""
    return ".".join(map(str, version))


def numbers(version: str) -> tuple[int, ...]:
    """Returns (0, 11, 2) for "0.11.2"; what follows a part that is not a number is left out."""
    out = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        out.append(int(part))
    return tuple(out)


def version_in(versions: Versions, library: str) -> tuple[int, ...] | None:
    """Returns the version of a library as numbers, None where it is not among `versions`."""
    text = dict(versions).get(library)
    return None if text is None else numbers(text)


def installed() -> Versions:
    """Returns name and version of each of `LIBRARIES` that is installed."""
    out = []
    for name in LIBRARIES:
        try:
            out.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(out)


INSTALLED = installed()  # versions do not change within a process
