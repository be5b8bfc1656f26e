"""The losses against numbers worked by hand."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectron.objectives import losses
from spectron.types import Losses, Sequence, Term


def test_reconstruction_by_hand():
    """Two bands, frames [1, 2], [3, 5], [0, 1], prediction zero, the third frame padding."""
    target = Sequence(jnp.asarray([[[1.0, 2.0], [3.0, 5.0], [9.0, 9.0]]]), jnp.asarray([[True, True, False]]))
    terms = losses.reconstruction(target, jnp.zeros((1, 3, 2)), time_deltas=2)
    # |d| + d²: 1+1, 2+4, 3+9, 5+25 over four elements
    assert float(terms["frames"].sum) == 50 and float(terms["frames"].weight) == 4
    # across bands: 1−2 = −1 and 3−5 = −2: 1+1 + 2+4 over two
    assert float(terms["delta_freq"].sum) == 8 and float(terms["delta_freq"].weight) == 2
    # across one step: 1−3 = −2, 2−5 = −3: 2+4 + 3+9 over two; across two steps nothing is valid
    assert float(terms["delta_time_1"].sum) == 18 and float(terms["delta_time_1"].weight) == 2
    assert float(terms["delta_time_2"].weight) == 0 and float(terms["delta_time_2"].mean()) == 0


def test_the_reconstruction_ignores_padding_whatever_it_holds():
    rng = np.random.default_rng(0)
    values, mask = rng.normal(size=(2, 6, 4)), np.arange(6)[None] < np.asarray([[6], [3]])
    predicted = rng.normal(size=(2, 6, 4))
    dirty = np.where(mask[..., None], predicted, np.nan)
    a = losses.reconstruction(Sequence(jnp.asarray(values), jnp.asarray(mask)), jnp.asarray(predicted))
    b = losses.reconstruction(Sequence(jnp.asarray(values), jnp.asarray(mask)), jnp.asarray(dirty))
    assert set(a) == {"frames", "delta_freq", "delta_time_1", "delta_time_2", "delta_time_3"}
    for name in a:
        assert float(a[name].sum) == float(b[name].sum) and np.isfinite(float(b[name].sum))


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.asarray([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [1.0, 1.0, 1.0]]]))
    term = losses.cross_entropy(logits, jnp.asarray([[0, 1, 2]]), jnp.asarray([[True, True, False]]))
    assert float(term.sum) == pytest.approx(np.log(2) - np.log(0.8), abs=1e-6) and float(term.weight) == 2
    hits = losses.accuracy(logits, jnp.asarray([[0, 2, 0]]), jnp.asarray([[True, True, True]]))
    assert (float(hits.sum), float(hits.weight)) == (2, 3)


def test_stop_by_hand():
    """Two real frames of four positions, the fourth in no real step: frame 1 is the last, frame 2 lies behind it."""
    term = losses.stop(
        jnp.asarray([[0.0, 0.0, 0.0, 50.0]]), jnp.asarray([2]), jnp.asarray([[True, True, True, False]]), positive=5.0
    )
    assert float(term.weight) == 1 + 5 + 5
    assert float(term.sum) == pytest.approx(11 * np.log(2), abs=1e-5)


def test_alignment_by_hand():
    """Tokens 4 and 5 end at samples 100 and 200, then eos; the last step is padding, the second row knows nothing."""
    text, ends = jnp.asarray([[4, 5, 1], [4, 5, 1]]), jnp.asarray([[100, 200, 0], [0, 0, 0]])
    middles = jnp.asarray([[99, 100, 199, 200, 999]] * 2)
    said, known = losses.spoken_tokens(text, ends, middles)
    np.testing.assert_array_equal(said[0], [4, 5, 5, 1, 1])
    np.testing.assert_array_equal(known, [[True], [False]])


@pytest.mark.parametrize("size", [2, 3, 5])
def test_chunks_add_up_to_the_whole(size):
    """Values and gradients, of a length that the chunk divides and of others."""
    rng = np.random.default_rng(0)
    hidden, head = rng.normal(size=(2, 6, 4)).astype(np.float32), rng.normal(size=(4, 7)).astype(np.float32)
    targets, mask = rng.integers(0, 7, (2, 6)), rng.random((2, 6)) < 0.7

    def loss(hidden, head, size):
        terms = losses.classification("a", lambda x: x @ head, size, hidden, targets, mask)
        return terms["a"].mean(), terms

    (whole, terms), expected = jax.value_and_grad(loss, (0, 1), has_aux=True)(hidden, head, 0)
    (found, chunked), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(hidden, head, size)
    assert float(found) == pytest.approx(float(whole), rel=1e-6)
    assert float(chunked["a_accuracy"].sum) == float(terms["a_accuracy"].sum)
    for a, b in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_logits_never_exist_whole():
    """The compiled gradient holds no array of every position and every label."""
    length, vocabulary = 64, 1000
    hidden, targets = jnp.ones((2, length, 4)), jnp.zeros((2, length), jnp.int32)

    def loss(head, size):
        return losses.classification("a", lambda x: x @ head, size, hidden, targets, targets == 0)["a"].mean()

    def text(size):
        return jax.jit(jax.grad(lambda head: loss(head, size))).lower(jnp.ones((4, vocabulary))).compile().as_text()

    logits = rf"f32\[(?:2,{length}|{2 * length}),{vocabulary}\]"
    assert re.search(logits, text(0)) and not re.search(logits, text(8))


def test_agreement_by_hand():
    even, sure = jnp.log(jnp.asarray([[[0.5, 0.5]] * 2])), jnp.log(jnp.asarray([[[0.75, 0.25]] * 2]))
    term = losses.agreement(sure, even, jnp.asarray([[True, False]]))
    expected = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    assert (float(term.sum), float(term.weight)) == (pytest.approx(expected, rel=1e-5), 1)
    assert float(losses.agreement(even, even, jnp.ones((1, 2), bool)).sum) == pytest.approx(0, abs=1e-6)
    gradient = jax.grad(lambda teacher: losses.agreement(sure, teacher, jnp.ones((1, 2), bool)).sum)(even)
    assert not np.any(gradient)


def test_ctc_of_certain_frames_is_nothing():
    """Frames that spell a, blank, b with certainty cost nothing; a row without frames is left out."""
    best = jnp.asarray([[1, 0, 2], [0, 0, 0]])
    logits = 50.0 * jax.nn.one_hot(best, 4)
    mask, labels = jnp.asarray([[True] * 3, [False] * 3]), jnp.asarray([[1, 2], [1, 0]])
    term = losses.ctc(logits, mask, labels, jnp.asarray([[True, True], [False, False]]))["ctc"]
    assert float(term.sum) == pytest.approx(0, abs=1e-3) and float(term.weight) == 2


def test_ctc_leaves_out_rows_with_fewer_frames_than_their_labels_need():
    """Five frames hold 1 1 2 2 (a blank inside each pair) no more than six labels; 1 2 1 2 3 fit, and 1 1 2 just."""
    labels = jnp.asarray([[1, 1, 2, 2, 0, 0], [1, 2, 3, 1, 2, 3], [1, 2, 1, 2, 3, 0], [1, 1, 2, 0, 0, 0], [0] * 6])
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(5, 6, 4)), jnp.float32)
    mask = jnp.arange(6)[None] < jnp.asarray([[5], [5], [5], [4], [0]])

    def terms(logits, rows):
        return losses.ctc(logits[rows], mask[rows], labels[rows], labels[rows] > 0)

    every, kept = np.arange(5), np.asarray([2, 3])
    found, wanted = terms(logits, every), terms(logits, kept)
    assert float(found["ctc"].sum) == pytest.approx(float(wanted["ctc"].sum), rel=1e-6)
    assert float(found["ctc"].weight) == float(wanted["ctc"].weight) == 8
    dropped = found["ctc_unalignable"]
    assert (float(dropped.sum), float(dropped.weight)) == (2, 4)  # of the rows with labels
    slopes = jax.grad(lambda x: terms(x, every)["ctc"].mean())(logits)
    assert np.isfinite(slopes).all() and not np.any(slopes[np.asarray([0, 1, 4])]) and np.any(slopes[2:4])


def test_terms_add_as_if_seen_together():
    a = Losses({"x": Term(jnp.float32(2), jnp.float32(1))}, {"x": jnp.float32(0.5)})
    b = Losses(
        {"x": Term(jnp.float32(4), jnp.float32(3)), "m": Term(jnp.float32(1), jnp.float32(2))}, {"x": jnp.float32(0.5)}
    )
    both = a + b
    assert float(both.total()) == pytest.approx(0.5 * 6 / 4)
    assert {k: float(v) for k, v in both.means().items()} == pytest.approx({"loss": 0.75, "x": 1.5, "m": 0.5})
