"""A Hugging Face directory: its config, its tensors wherever they lie, and which leaf each one is."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxpt.bundles.digest import all_finite
from jaxpt.errors import JaxptError, short
from jaxpt.files.absent import absent_model
from jaxpt.files.strangers import parse_json, read_text, regular_file
from jaxpt.interop.family import read_config
from jaxpt.interop.find_family import family_of
from jaxpt.interop.mapping import Tensor
from jaxpt.interop.safetensors_file import SafetensorsFile
from jaxpt.models.config import ModelConfig
from jaxpt.models.params import ArrayIndex
from jaxpt.models.specs import ParamSpec, flatten, param_specs

LeafPlace = tuple[
    Tensor, str, tuple[int, ...]
]  # mapping, leaf path, where in the leaf: (), (layer,) or (layer, expert)


class HuggingFaceCheckpoint:
    """An opened directory. `places` says for each foreign tensor which leaf (and layer, expert) it is."""

    def __init__(self, path: str | Path, family: str | None = None, inert: Sequence[str] = ()):
        """Reads config and headers, and checks that tensors and config agree.

        Args:
            path: the directory.
            family: its family where config.json does not name one of ours: `package.module:FAMILY`.
            inert: keys of config.json that do not change the forward pass by the user's word.

        Raises:
            JaxptError: no safetensors (pickles are refused), a missing shard, a tensor left over or missing, a shape
                that the config does not give, or anything the config asks for that is not implemented.
        """
        self.path = Path(path)
        if not self.path.exists():
            raise JaxptError(f"{path} {absent_model(path)}")
        self.values = _needed(self.path, "config.json")
        self.generation = _json(self.path, "generation_config.json")  # how to sample; carried through
        self.family = family_of(self.values, str(self.path / "config.json"), family)
        self.inert = tuple(inert)
        self.files = {name: SafetensorsFile(self.path / name) for name in _files(self.path)}
        self._where: dict[str, SafetensorsFile] = {}
        for name, file in self.files.items():
            if twice := self._where.keys() & file.header.keys():
                other = self._where[min(twice)].path.name
                raise JaxptError(f"{self.path}: {min(twice)} is in {other} and in {name}; remove one")
            self._where |= dict.fromkeys(file.header, file)
        self._check_count("num_hidden_layers", self.values.get("num_hidden_layers"))
        self.config: ModelConfig = read_config(self.family, self.values, str(self.path / "config.json"), inert)
        if self.config.moe is not None:
            count = len(self.config.layers_of("moe"))
            self._check_count(f"{count:,} layers of experts", self.config.moe.experts * count)
        self.specs: dict[str, ParamSpec] = flatten(param_specs(self.config))
        count = sum(spec.pieces[0] for spec in self.specs.values() if spec.pieces)
        self._check_count("parameters of layers", count, 2)  # where fewer lack, they are named
        self.places = self._match()
        self.dtypes = self._dtypes()

    def _check_count(self, what: str, wanted: object, times: int = 1) -> None:
        """Refuses more things, each with a tensor of its own, than there are tensors, before any is built."""
        if isinstance(wanted, int) and wanted > times * len(self._where):
            most = f"{'twice ' * (times == 2)}the {len(self._where):,} tensors in its files"
            raise JaxptError(f"{self.path / 'config.json'} asks for {what}: {short(wanted)}, more than {most}")

    def _match(self) -> dict[str, LeafPlace]:
        wanted: dict[str, LeafPlace] = {}
        for tensor in self.family.tensors:
            for name, leaf, at in places_of(tensor, self.config, self.specs):
                wanted[name] = (tensor, leaf, at)
        given = set(self._where)
        given = {n for n in given if not n.endswith("rotary_emb.inv_freq")}  # follows from the config
        head, table = "lm_head.weight", "model.embed_tokens.weight"
        if self.config.tie_embeddings and {head, table} <= given:
            if not np.array_equal(self.tensor(head), self.tensor(table)):
                raise JaxptError(f"{self.path}: {head} is not {table}, config.json asks for tie_word_embeddings=True")
            given.discard(head)
        lost, odd = wanted.keys() - given, given - wanted.keys()
        for what, names in (("lacks", lost), ("holds tensors the config does not describe:", odd)):
            if names:
                some = ", ".join(n[:100] for n in sorted(names)[:6])
                some += f" and {len(names) - 6} more" if len(names) > 6 else ""
                raise JaxptError(f"{self.path} {what} {some}")
        for name, (tensor, leaf, _) in wanted.items():
            want, got = tensor.foreign_shape(self.specs[leaf]), self._where[name].shape(name)
            if want != got:
                raise JaxptError(f"{self.path}: {name} has shape {got}, config.json gives {want}")
        return wanted

    def _dtypes(self) -> dict[str, str]:
        out: dict[str, str] = {}
        for name, (_, leaf, _) in self.places.items():
            dtype = self._where[name].dtype(name)
            if out.setdefault(leaf, dtype) != dtype:
                raise JaxptError(f"{self.path}: {name} is {dtype}, other layers of {leaf} are {out[leaf]}")
        return out

    def tensor(self, name: str) -> np.ndarray:
        """Returns a foreign tensor as a memory map."""
        return self._where[name].read(name)

    def slice(self, name: str, index: ArrayIndex = ...) -> np.ndarray:
        """Returns a foreign tensor in our layout, one layer (one expert) of its leaf or an unstacked one whole; with
        `index` only that part of it is read."""
        tensor, leaf, _ = self.places[name]
        value = tensor.to_ours(self.tensor(name), self.specs[leaf], index)
        if not all_finite(value):
            raise JaxptError(f"{self.path}: the tensor {name} holds NaN or infinite numbers; fetch the directory again")
        return value


def places_of(
    tensor: Tensor, config: ModelConfig, specs: dict[str, ParamSpec]
) -> list[tuple[str, str, tuple[int, ...]]]:
    """Returns (foreign name, leaf path, where in the leaf) for every tensor of one kind that the model has.

    Where: `()` in a leaf that is not stacked, else `(layer within its stack,)`, or `(layer, expert)` of routed experts.
    """
    if not tensor.per_layer:
        return [(tensor.name, tensor.leaf, ())] if tensor.leaf in specs else []
    out = []
    for structure in sorted({layer.ffn for layer in config.layers}):
        leaf = f"blocks/{structure}/{tensor.leaf}"
        if leaf in specs:
            for n, i in enumerate(config.layers_of(structure)):
                experts = np.ndindex(specs[leaf].pieces[1:])  # one empty tuple where the leaf has no experts
                out += [(tensor.name.format(i=i, e=e[0] if e else ""), leaf, (n, *e)) for e in experts]
    return out


def _json(folder: Path, name: str) -> dict[str, object] | None:
    """What a JSON file holds, None where there is none."""
    file = regular_file(folder, name)
    if file is None:
        return None
    values = parse_json(read_text(file), str(file))
    if not isinstance(values, dict):
        raise JaxptError(f"{file} holds a {type(values).__name__}, no dictionary of keys; fetch it again")
    return values


def _needed(folder: Path, name: str) -> dict[str, object]:
    values = _json(folder, name)
    if values is None:
        raise JaxptError(f"{folder / name} does not exist; give a Hugging Face model directory")
    return values


def _files(path: Path) -> list[str]:
    index = path / "model.safetensors.index.json"
    listed = _json(path, index.name)
    if listed is not None:
        shards = listed.get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(n, str) and Path(n).name == n for n in shards.values()):
            raise JaxptError(f"{index} has no weight_map from tensors to files beside it; fetch it again")
        names = sorted(set(shards.values()))
        missing = [n for n in names if regular_file(path, n) is None]
        if missing:
            some = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
            raise JaxptError(f"{path} lacks the shard {some} that {index.name} names; fetch it")
        return names
    names = sorted(p.name for p in path.glob("*.safetensors"))
    for name in names:
        regular_file(path, name)
    if "model.safetensors" in names:
        return ["model.safetensors"]  # others beside it (consolidated, adapters) are other forms or models
    if names:
        return names
    pickles = sorted(p.name for p in path.glob("*.bin"))
    if pickles:
        load = f"AutoModelForCausalLM.from_pretrained('{path}').save_pretrained('OUT')"
        command = f'python -c "from transformers import AutoModelForCausalLM; {load}"'
        raise JaxptError(f"{path} holds pickles ({pickles[0]}), which can run code; convert them: {command}")
    raise JaxptError(f"{path} holds no *.safetensors")
