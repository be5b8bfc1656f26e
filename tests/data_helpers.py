"""Shared by the tests of data."""

import dataclasses
import itertools

import numpy as np

from spectron.config import Experiment


def with_data(experiment: Experiment, **changes) -> Experiment:
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, **changes))


def assert_same(a, b) -> None:
    assert list(a.fields()) == list(b.fields())
    for name, left in a.fields().items():
        right = getattr(b, name)
        assert left.dtype == right.dtype, name
        np.testing.assert_array_equal(left, right, err_msg=name)


def first(feed, count, start=0):
    batches = feed.batches(start)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken
