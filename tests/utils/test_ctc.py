"""CTC's rule by hand."""

import numpy as np
import pytest

from spectron.utils.ctc import collapse


@pytest.mark.parametrize(
    ("path", "labels"),
    [([0, 0, 0], []), ([], []), ([3, 3, 0, 3], [3, 3]), ([1, 1, 2, 2], [1, 2]), ([0, 10, 0, 0, 1, -1, -1], [10, 1])],
)
def test_repeats_blanks_and_padding_are_dropped(path, labels):
    assert collapse(np.array(path, int)) == labels
