"""Memory and speed of cutting a bundle that is larger than the memory allowed: `jaxpt reshape` in a fresh process.

python -m benchmarks.reshape_memory --folder=/tmp/big                     # 5 GB bundle, 700 MB allowed
python -m benchmarks.reshape_memory --folder=/tmp/big --preset=qwen2.5-14b --allowed_mb=6000   # 30 GB; --layers=10: 8.6

Memory is the maximum of RssAnon + RssShmem sampled at 20 Hz (memory-mapped files do not count). Speed is bytes read
plus bytes written per second, against copying the same bundle (8 GB of it at most) file by file.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxpt.bundles import BundleWriter, open_bundle
from jaxpt.cli.terminal import progress, table
from jaxpt.models import ModelConfig, flatten, param_specs, uniform_layers
from jaxpt.models.presets import preset
from jaxpt.models.size import param_count
from jaxpt.reshape.stream import slices


def make(path: Path, config: ModelConfig) -> None:
    """Writes a bundle of random bfloat16 weights, unless it is there already."""
    if path.exists():
        if open_bundle(path).config == config:
            return
        shutil.rmtree(path)
    block = (0.02 * np.random.default_rng(0).standard_normal(1 << 22, np.float32)).astype(ml_dtypes.bfloat16)
    size = param_count(config) * 2
    with BundleWriter(path, config, "bfloat16") as writer, progress(size, "making", "B", scale=True) as bar:
        for i, (leaf, layer, shape) in enumerate(slices(config)):
            value = np.resize(np.roll(block, 7919 * i), shape)
            writer.write(leaf, layer, value)
            bar.update(value.nbytes)
        writer.finish()


def watch(command: list[str]) -> tuple[float, float]:
    """Runs a command; returns its seconds and its peak RssAnon + RssShmem in bytes, sampled at 20 Hz."""
    start, peak = time.monotonic(), 0.0
    process = subprocess.Popen(command)
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        now = sum(1024 * int(fields[k].split()[0]) for k in ("RssAnon", "RssShmem") if k in fields)
        peak = max(peak, float(now))
        time.sleep(0.05)
    if process.wait():
        raise SystemExit(f"{' '.join(command)} failed")
    return time.monotonic() - start, peak


def size(path: Path) -> int:
    """Bytes of all files under a directory."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def copy_speed(source: Path, target: Path, most: float = 8e9) -> float:
    """Copies files of a directory until `most` bytes are copied; returns bytes read and written per second."""
    start, copied = time.monotonic(), 0
    for file in sorted(f for f in source.rglob("*") if f.is_file()):
        if copied < most:
            to = target / file.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to)
            copied += file.stat().st_size
    seconds = time.monotonic() - start
    shutil.rmtree(target)
    return 2 * copied / seconds


def main() -> int:
    """Makes the bundle, cuts it, prints the table; exit code 1 if memory was above what is allowed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--preset", help="a model preset instead of the 2.5B shape")
    parser.add_argument("--layers", type=int, help="only the first so many, where the disk is small")
    parser.add_argument("--allowed_mb", type=int, default=700)
    parser.add_argument("--variant", default="importance", help="of configs/reshape/subclone.py; scores are data-free")
    args = parser.parse_args()
    config = ModelConfig(32_000, 2048, 16, 4, 128, 8192, uniform_layers(48), qkv_bias=True)
    if args.preset:
        config = preset(args.preset)
    if args.layers:
        config = config.replace(layers=config.layers[: args.layers])
    largest = max(2 * s.size for s in flatten(param_specs(config)).values() if s.stacked)
    source, target = args.folder / "source", args.folder / "target"
    shutil.rmtree(target, ignore_errors=True)
    make(source, config)
    to = {"layers": len(config.layers) * 3 // 4, "embed": config.embed * 5 // 8, "mlp": config.mlp * 5 // 8}
    command = [sys.executable, "-m", "jaxpt", "reshape", f"--config=configs/reshape/subclone.py:{args.variant}"]
    command += [f"--from={source}", f"--to={target}", *(f"--config.target.{k}={v}" for k, v in to.items())]
    seconds, peak = watch(command)
    read, written = size(source), size(target)
    passes = 2 if args.variant in ("importance", "scaled") else 1  # the scores read the model once more
    copied = copy_speed(source, args.folder / "copy")
    print(
        table(
            ["", "value"],
            [
                ["bundle, GB", read / 1e9],
                ["result, GB", written / 1e9],
                ["result, parameters", param_count(open_bundle(target).config)],
                ["largest stacked leaf, MB", largest / 1e6],
                ["allowed, MB", args.allowed_mb],
                ["peak RssAnon + RssShmem, MB", peak / 1e6],
                ["seconds", seconds],
                ["read + written, GB/s", (passes * read + written) / seconds / 1e9],
                ["file copy, read + written, GB/s", copied / 1e9],
            ],
        )
    )
    if largest < 2 * peak:
        print("the largest leaf is not twice the memory used: this run proves little")
    return int(peak > args.allowed_mb * 1e6)


if __name__ == "__main__":
    raise SystemExit(main())
