"""Shared by the tests of data."""

import dataclasses
import itertools

import numpy as np

from spectron.config import Experiment


def with_data(experiment: Experiment, **changes) -> Experiment:
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, **changes))


def assert_same(a, b) -> None:
    for field in dataclasses.fields(a):
        left, right = getattr(a, field.name), getattr(b, field.name)
        assert left.dtype == right.dtype, field.name
        np.testing.assert_array_equal(left, right, err_msg=field.name)


def first(feed, count, start=0):
    batches = feed.batches(start)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken
