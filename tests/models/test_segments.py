"""Segments of a decoder's input: masks, positions, splitting."""

import jax.numpy as jnp
import numpy as np

from spectron.models.segments import Segment, join


def segment(mask, bidirectional=False, value=1.0):
    mask = jnp.asarray(mask, bool)
    return Segment(jnp.full((*mask.shape, 2), value), mask, bidirectional)


def allowed(joined, row=0):
    return np.asarray(joined.attention_mask[row], int).tolist()


def test_spectron_attends_both_ways_in_the_prefix_only():
    joined = join([segment([[1, 1, 0]], True), segment([[1, 0]]), segment([[1]])])
    assert allowed(joined) == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 0, 1],
    ]
    assert joined.sizes == (3, 2, 1) and joined.bidirectional_prefix == 3


def test_a_bidirectional_segment_in_the_middle_sees_what_is_before_it_causally():
    """Instruction, then audio both ways, then text."""
    joined = join([segment([[1, 1]]), segment([[1, 1]], True), segment([[1]])])
    assert allowed(joined) == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert joined.bidirectional_prefix is None, "a fused kernel cannot be told this"


def test_two_bidirectional_segments_do_not_see_each_other_both_ways():
    joined = join([segment([[1, 1]], True), segment([[1, 1]], True)])
    assert allowed(joined) == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_each_row_may_have_its_own_prefix():
    inside = jnp.asarray([[True, True, False], [False, False, False]])
    joined = join([segment(np.ones((2, 3)), inside)])
    assert allowed(joined, 0) == [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    assert allowed(joined, 1) == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert joined.bidirectional_prefix is None


def test_without_bidirectional_segments_everything_is_causal():
    joined = join([segment([[1, 1]]), segment([[1]])])
    assert allowed(joined) == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert joined.bidirectional_prefix == 0


def test_positions_count_real_elements_only():
    joined = join([segment([[1, 1, 0], [1, 0, 0]], True), segment([[1, 1], [1, 0]])])
    assert joined.positions.tolist() == [[0, 1, 1, 2, 3], [0, 0, 0, 1, 1]]


def test_padding_is_zeroed_and_split_undoes_join():
    dirty = Segment(jnp.full((1, 2, 2), jnp.nan), jnp.asarray([[False, False]]))
    joined = join([segment([[1, 1, 1]], True), dirty, segment([[1]], value=3.0)])
    first, second, third = joined.split(joined.values)
    np.testing.assert_array_equal(first, np.ones((1, 3, 2)))
    np.testing.assert_array_equal(second, np.zeros((1, 2, 2)))
    np.testing.assert_array_equal(third, np.full((1, 1, 2), 3.0))
