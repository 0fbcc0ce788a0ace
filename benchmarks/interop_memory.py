"""Host memory of import and export: random bfloat16 weights, each direction in a fresh process.

    python -m benchmarks.interop_memory --folder=SCRATCH            # a Qwen 2.5 3B: 6.2 GB, and as much again twice
    python -m benchmarks.interop_memory --folder=SCRATCH --layers=4
    python -m benchmarks.interop_memory --folder=SCRATCH --preset=olmoe-1b-7b --layers=2      # a mixture of experts

Limit: three times the largest foreign tensor plus 0.5 GB. Memory: maximum of RssAnon + RssShmem, sampled at 20 Hz.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxpt.cli.terminal import table
from jaxpt.interop.checkpoint import places_of
from jaxpt.interop.find_family import form_for
from jaxpt.interop.safetensors_file import index_of, shards, write_file
from jaxpt.models.presets import preset
from jaxpt.models.specs import flatten, param_specs


def make(folder: Path, name: str, layers: int | None) -> tuple[int, int]:
    """Writes the checkpoint; returns the bytes of its largest tensor and of the largest leaf."""
    config = preset(name)
    if layers:
        config = config.replace(layers=config.layers[:layers])
    form, specs = form_for(config), flatten(param_specs(config))
    planned = [
        (name, tensor.foreign_shape(specs[leaf]), "bfloat16")
        for tensor in form.family.tensors
        for name, leaf, _ in places_of(tensor, config, specs)
    ]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(form.values))
    rng = np.random.default_rng(0)
    parts = shards(planned, 4 * 2**30)
    names = [f"model-{i:05d}-of-{len(parts):05d}.safetensors" for i in range(1, len(parts) + 1)]
    names = ["model.safetensors"] if len(parts) == 1 else names
    for name, part in zip(names, parts):
        write_file(folder / name, part, (_random(rng, shape) for _, shape, _ in part))
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_of(dict(zip(names, parts)))))
    return max(2 * int(np.prod(shape)) for _, shape, _ in planned), max(2 * s.size for s in specs.values())


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random bits as bfloat16; without the exponent's highest bit, so that all are finite."""
    return (rng.integers(0, 2**16, shape, np.uint16) & 0xBFFF).view(ml_dtypes.bfloat16)


def measured(*arguments: str) -> tuple[int, float]:
    """Runs a jaxpt command; returns the peak of RssAnon + RssShmem in bytes, and seconds."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "jaxpt", *arguments], stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            break
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))}
        peak = max(peak, 1024 * sum(kib.values()))
        time.sleep(0.05)
    if process.wait():
        sys.exit(f"jaxpt {' '.join(arguments)} failed")
    return peak, time.monotonic() - began


def main() -> None:
    """Makes the checkpoint, imports and exports it, and prints memory against the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, type=Path, help="scratch; its parts are removed at the end")
    parser.add_argument("--preset", default="qwen2.5-3b", help="the model's shape")
    parser.add_argument("--layers", type=int, help="fewer layers than the preset has")
    args = parser.parse_args()
    source, bundle, back = (args.folder / n for n in ("hf", "bundle", "again"))
    for path in (source, bundle, back):
        shutil.rmtree(path, ignore_errors=True)
    largest, leaf = make(source, args.preset, args.layers)
    size = sum(p.stat().st_size for p in source.iterdir())
    limit = 3 * largest + 500_000_000
    rows, over = [], False
    for name, arguments in {
        "import": ("import", f"--from={source}", f"--to={bundle}"),
        "export": ("export", f"--from={bundle}", f"--to={back}"),
    }.items():
        peak, seconds = measured(*arguments)
        over |= peak > limit
        rows.append([name, round(size / 1e9, 2), round(peak / 1e9, 3), round(limit / 1e9, 3), round(seconds, 1)])
    print(table(["direction", "model GB", "peak GB", "limit GB", "seconds"], rows))
    same = all((source / p.name).read_bytes() == p.read_bytes() for p in back.glob("*.safetensors"))
    print(f"largest foreign tensor {largest / 1e9:.3f} GB, largest leaf {leaf / 1e9:.3f} GB")
    print("files equal byte for byte" if same else "FILES DIFFER")
    for path in (source, bundle, back):
        shutil.rmtree(path)
    sys.exit(1 if over or not same else 0)


if __name__ == "__main__":
    main()
