"""A packed source once more as a TFDS data set, for loaders that read those; TensorFlow is not needed."""

from pathlib import Path
from typing import Any

from jaxpt.data.packed import PackedSource
from jaxpt.errors import JaxptError

NAME = "packed_rows"
BLOCK = 256  # rows read together


def export(source: PackedSource) -> Path:
    """Writes the rows of `source`, in their order, as ArrayRecord under `SOURCE/tfds`; returns the data set's folder.

    `tfds.data_source("packed_rows", data_dir="SOURCE/tfds", split="train")` reads it. An example holds what a row of a
    batch does (`jaxpt.models.batch.Rows`), each entry `[S]`.

    Raises:
        JaxptError: TFDS is not installed.
    """
    from jaxpt.models.batch import Rows, kinds  # with JAX and Flax, which other steps do not need

    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise JaxptError(f"--format=tfds needs TFDS ({error}); install jaxpt[tfds]") from error
    shape = (source.sequence_length,)
    entries = kinds(Rows)
    with tfds.core.registered.skip_registration():

        class PackedRows(tfds.core.GeneratorBasedBuilder):
            """Rows of a packed source."""

            VERSION = tfds.core.Version("1.0.0")
            name = NAME

            def _info(self) -> Any:
                features = {k: tfds.features.Tensor(shape=shape, dtype=e.dtype) for k, e in entries.items()}
                return tfds.core.DatasetInfo(
                    builder=self,
                    description=f"{source.rows} rows of packed source {source.name}, fingerprint {source.fingerprint}",
                    features=tfds.features.FeaturesDict(features),
                    disable_shuffling=True,
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                return {"train": self._generate_examples()}

            def _generate_examples(self) -> Any:
                for first in range(0, source.rows, BLOCK):
                    batch = source.read(range(first, min(first + BLOCK, source.rows)))
                    for i in range(len(batch["tokens"])):
                        yield first + i, {k: batch[k][i] for k in entries}

    builder = PackedRows(data_dir=source.path / "tfds", file_format="array_record")
    builder.download_and_prepare()
    return Path(str(builder.data_dir))
