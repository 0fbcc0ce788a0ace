"""The keys of a batch are stated once, and are what readers of rows give."""

import numpy as np

from jaxpt.data import records
from jaxpt.data.packing import Document, best_fit
from jaxpt.models.batch import Batch, Rows, kinds
from tests.training import tiny


def is_of(kinds, batch, rows, length):
    assert batch.keys() == kinds.keys()
    for key, kind in kinds.items():
        assert (batch[key].shape, batch[key].dtype) == (kind.shape(rows, length), kind.dtype), key


def test_packed_rows_are_rows_and_a_mixture_adds_their_sources():
    documents = [Document(np.arange(2, 12), np.ones(10, bool), i) for i in range(3)]
    encoded = [records.encode(row, "uint16") for row, _ in best_fit(documents, 16, 0)]
    is_of(kinds(Rows), records.decode(encoded, 16, "uint16"), len(encoded), 16)
    is_of(kinds(), tiny.batch(), tiny.B, tiny.S)
    assert kinds().keys() - kinds(Rows).keys() == {"source_id"}
    assert kinds(Batch) == kinds()
