"""Hugging Face directories and bundles that a stranger made: each is refused in one short line, and soon."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

from benchmarks.attack.children import Outcome, Server
from benchmarks.attack.judge import Trial, failed
from benchmarks.attack.room import Room, drop

MEMORY = 2 << 30  # bytes that a child may take besides what it has
SOON = 30.0  # seconds
LINE = 2100  # characters of the line that it prints
Change = Callable[[Path], None]


def config(**values: object) -> Change:
    """Changes keys of config.json."""

    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def text(name: str, make: Callable[[str], str]) -> Change:
    """Rewrites a file by its text, empty where it is not there."""

    def change(folder: Path) -> None:
        file = folder / name
        file.write_text(make(file.read_text() if file.exists() else ""))

    return change


def header(make: Callable[[dict], str]) -> Change:
    """Rewrites the header of the weights."""

    def change(folder: Path) -> None:
        file = folder / "model.safetensors"
        data = file.read_bytes()
        size = int.from_bytes(data[:8], "little")
        new = make(json.loads(data[8 : 8 + size])).encode()
        file.write_bytes(len(new).to_bytes(8, "little") + new + data[8 + size :])

    return change


def odd(name: str, make: Callable[[Path], object]) -> Change:
    """Puts something that is no regular file in a file's place."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return change


def pipe_socket(file: Path) -> None:
    """Makes a socket, by a short way: its path may have some hundred characters only."""
    here = os.open(file.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{here}/{file.name}")
    os.close(here)


def weights(pattern: bytes) -> Change:
    """Fills all weights with one value of four bytes."""

    def change(folder: Path) -> None:
        file = folder / "model.safetensors"
        data = file.read_bytes()
        begin = 8 + int.from_bytes(data[:8], "little")
        file.write_bytes(data[:begin] + pattern * ((len(data) - begin) // 4))

    return change


def many_layers(values: dict) -> str:
    """A header of a hundred thousand empty tensors."""
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return json.dumps({**{f"model.layers.{i}.mlp.up_proj.weight": empty for i in range(100_000)}, **values})


ELSEWHERE = "/etc/hostname"
DEEP = "[" * 100_000
CHANGES: dict[str, Change] = {
    "a thousand million layers": config(num_hidden_layers=10**9),
    "a million layers": config(num_hidden_layers=10**6),
    "many tensors, many layers": lambda f: (config(num_hidden_layers=99_000)(f), header(many_layers)(f))[0],
    "layers as a float": text("config.json", lambda t: t.replace("{", '{"num_hidden_layers": 1e9, ', 1)),
    "an embedding of 10^30": config(hidden_size=10**30),
    "a vocabulary of 2^40": config(vocab_size=2**40),
    "NaN in config.json": config(rms_norm_eps=float("nan")),
    "an infinity in config.json": config(rope_theta=float("inf")),
    "1e999": text("config.json", lambda t: t.replace("{", '{"rope_theta": 1e999, ', 1)),
    "400 digits": text("config.json", lambda t: t.replace("{", '{"extra": ' + "9" * 400 + ", ", 1)),
    "a key twice": text("config.json", lambda t: t.replace("{", '{"hidden_size": 8, ', 1)),
    "config.json without end": text("config.json", lambda t: DEEP),
    "a deep value": text("config.json", lambda t: t.replace("{", '{"extra": ' + "[" * 500 + "]" * 500 + ", ", 1)),
    "a long value": config(extra="x" * 10**7),
    "a list for a name": config(model_type=["llama"] * 10**5, architectures=[[["x"]]]),
    "layer types without end": config(layer_types=["x"] * 10**6),
    "a pipe for weights": odd("model.safetensors", os.mkfifo),
    "a pipe for config.json": odd("config.json", os.mkfifo),
    "a pipe for tokenizer.model": odd("tokenizer.model", os.mkfifo),
    "a pipe for a template": odd("chat_template.jinja", os.mkfifo),
    "a socket for weights": odd("model.safetensors", pipe_socket),
    "a folder for weights": odd("model.safetensors", Path.mkdir),
    "a device for weights": odd("model.safetensors", lambda f: f.symlink_to("/dev/zero")),
    "weights elsewhere": odd("model.safetensors", lambda f: f.symlink_to(ELSEWHERE)),
    "a template elsewhere": odd("chat_template.jinja", lambda f: f.symlink_to(ELSEWHERE)),
    "a link in a circle": odd("chat_template.jinja", lambda f: f.symlink_to(f.name)),
    "a header key twice": header(lambda h: '{"a": {}, "a": {}, ' + json.dumps(h)[1:]),
    "a header without end": header(lambda h: DEEP),
    "a header of 2^40 bytes": lambda f: (f / "model.safetensors").write_bytes((2**40).to_bytes(8, "little")) and None,
    "a tensor of many dimensions": header(
        lambda h: json.dumps({**h, "x": {"dtype": "F32", "shape": [9] * 10**5, "data_offsets": [0, 0]}})
    ),
    "weights of NaN": weights(b"\x00\x00\xc0\x7f"),
    "weights of infinity": weights(b"\x00\x00\x80\x7f"),
    "a token as a list": text("tokenizer_config.json", lambda t: '{"bos_token": ["<s>"]}'),
    "added tokens as a list": text("tokenizer_config.json", lambda t: '{"added_tokens_decoder": ["<s>"]}'),
    "templates as a list of lists": text("tokenizer_config.json", lambda t: '{"chat_template": [["a"]]}'),
    "a tokenizer without end": text("tokenizer.json", lambda t: DEEP),
    "an id of 2^32": text(
        "tokenizer.json",
        lambda t: (
            '{"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": '
            '{"a": 4294967294, "b": 0}, "unk_token": "a"}}'
        ),
    ),
}
BUNDLES: dict[str, Change] = {
    "bundle: a thousand million layers": text("model.json", lambda t: t.replace('"count": 2', '"count": 1000000000')),
    "bundle: NaN": text("model.json", lambda t: t.replace('"norm_eps": 1e-05', '"norm_eps": NaN')),
    "bundle: a key twice": text("model.json", lambda t: t.replace("{", '{"format": 2, ', 1)),
    "bundle: a pipe": odd("lineage.json", os.mkfifo),
    "bundle: a pipe for a chunk": lambda f: odd("zarr.json", os.mkfifo)(next(f.rglob("zarr.json")).parent),
    "bundle: a link elsewhere": odd("tokenizer/chat_template.jinja", lambda f: f.symlink_to(ELSEWHERE)),
    "bundle: lineage without end": text("lineage.json", lambda t: DEEP),
}  # fmt: skip


def attack(room: Room) -> list[Trial]:
    """Each directory once, to be imported; each bundle once, without its digests, to be inspected and exported."""
    todo = [(name, change, room.victims.hf) for name, change in CHANGES.items()]
    todo += [(name, change, room.victims.bundle) for name, change in BUNDLES.items()]
    return room.children.each(lambda server, item: one(room, server, *item), todo)


def one(room: Room, server: Server, name: str, change: Change, victim: Path) -> Trial:
    """One trial: a changed copy is read; what is not refused is silent."""
    copy = room.copy(victim)
    change(copy)
    calls = [["command", "jaxpt", "import", f"--from={copy}", f"--to={copy.parent}/out"]]
    if victim == room.victims.bundle:
        forget_digests(copy)
        calls = [
            ["command", "jaxpt", "inspect", str(copy)],
            ["command", "jaxpt", "export", f"--from={copy}", f"--to={copy}-out"],
        ]
    outcome = server.call(*calls, memory=MEMORY)
    verdict, reason = verdict_of(outcome)
    drop(copy.parent)
    return Trial("hostile directories", name, verdict, reason)


def forget_digests(bundle: Path) -> None:
    """Takes a bundle's digests of small files away, which a stranger would write anew."""
    (bundle / "digests.json").unlink()
    model = bundle / "model.json"
    if model.is_file():
        model.write_text(model.read_text().replace('"format": 2,', "", 1))


def verdict_of(outcome: Outcome) -> tuple[str, str]:
    """Judges a child that must refuse in one line, soon."""
    if bad := failed(outcome):
        return bad, outcome.reason
    if outcome.seconds > SOON:
        return "hang", f"{outcome.seconds:.0f} s"
    lines = [line for line in outcome.err.splitlines() if line.startswith(("jaxpt", "attack"))]
    if outcome.code != 1 or len(lines) != 1 or len(lines[0]) > LINE:
        return "silent", f"exit {outcome.code}: {outcome.text[-300:]}"
    return "noticed", lines[0]
