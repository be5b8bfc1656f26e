"""Batches hold every sequence once, with like lengths together, in few shapes."""

import numpy as np

from spectron.utils.padding import batches_by_length, round_up


def test_every_sequence_is_in_one_batch_of_a_common_shape():
    sequences = [np.arange(1, n + 1) for n in (5, 0, 3, 9, 2)]
    batches = list(batches_by_length(sequences, 2, lambda longest: round_up(longest, 4)))
    assert [batch.values.shape for batch in batches] == [(2, 4), (2, 8), (2, 12)]
    assert sorted(i for batch in batches for i in batch.indices) == [0, 1, 2, 3, 4]
    for batch in batches:
        for row, i in enumerate(batch.indices):
            assert batch.values[row, : batch.lengths[row]].tolist() == sequences[i].tolist()
            assert not batch.values[row, batch.lengths[row] :].any()
    assert batches[-1].lengths.tolist() == [9, 0], "rows after the last sequence are empty"
