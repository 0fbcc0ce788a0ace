"""Fills a folder with the wheels that the benchmark needs where Python 3.12, JAX 0.11.2 and torch are there already.

`python -m benchmarks.gpu.wheels FOLDER` downloads what jaxpt and tokamax need beyond JAX, flax, optax, Orbax, torch and
transformers, for x86-64 Linux, without their own needs: each is named here. tokamax's xprof (32 MiB, and much more that
it needs) is left out; only tokamax's own benchmarks read it.
"""

import argparse
import subprocess
import sys
from pathlib import Path

PACKAGES = (
    "grain>=0.2.18,<0.3",
    "array-record>=0.8.3,<0.9",
    "ml-collections>=1.1,<2",
    "tensorboardX>=2.6,<3",
    "msgspec>=0.20,<0.23",
    "isal>=1.7,<2",
    "zstandard>=0.23,<0.26",
    "portpicker",
    "tokamax==0.0.17",
    "einshape",
    "immutabledict",
    "qwix",
    "pydantic==2.14.4",
    "pydantic-core==2.50.5",  # the one that this pydantic wants
    "annotated-types",
    "typing-inspection",
    "typing-extensions>=4.16",
)
GLIBC = (34, 31, 28, 27, 24, 17)
LIMIT = 40 * 2**20


def main() -> int:
    """Downloads, and refuses a folder that has become too large."""
    parser = argparse.ArgumentParser("benchmarks.gpu.wheels", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()  # two versions of one package would stop the installation
    platforms = [f"--platform=manylinux_2_{n}_x86_64" for n in GLIBC] + ["--platform=manylinux2014_x86_64"]
    given = ["--no-deps", "--only-binary=:all:", "--python-version=3.12", "--implementation=cp", *platforms]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *given]
    if code := subprocess.run([*command, f"--dest={folder}", *PACKAGES]).returncode:
        return code
    wheels = list(folder.glob("*.whl"))
    size = sum(w.stat().st_size for w in wheels)
    print(f"{len(wheels)} wheels, {size / 2**20:.1f} MiB in {folder}")
    return int(size > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
