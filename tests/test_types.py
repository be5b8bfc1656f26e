import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron.types import Batch, Losses, Sequence, Term, length_mask


def test_masked_writes_exact_zeros_whatever_stood_there():
    values = jnp.full((2, 3, 4), jnp.nan).at[0, :2].set(1.0).at[1, :1].set(jnp.inf)
    mask = length_mask(jnp.array([2, 1]), 3)
    out = Sequence(values, mask).masked()
    expected = np.zeros((2, 3, 4))
    expected[0, :2] = 1.0
    expected[1, :1] = np.inf
    np.testing.assert_array_equal(out.values, expected)
    np.testing.assert_array_equal(out.mask, mask)


def test_masked_has_no_gradient_in_the_padding_even_beside_nan():
    mask = length_mask(jnp.array([1]), 2)
    grad = jax.grad(lambda v: Sequence(v, mask).masked().values.sum())(jnp.array([[2.0, jnp.nan]]))
    np.testing.assert_array_equal(grad, [[1.0, 0.0]])


def test_lengths_count_real_elements_per_row():
    lengths = Sequence(jnp.zeros((3, 5)), length_mask(jnp.array([0, 3, 5]), 5)).lengths
    assert lengths.dtype == jnp.int32
    assert lengths.tolist() == [0, 3, 5]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 9))
def test_length_mask_is_true_for_the_first_elements_only(lengths, size):
    mask = np.asarray(length_mask(np.array(lengths), size))
    assert mask.tolist() == [[t < n for t in range(size)] for n in lengths]


def test_terms_of_two_micro_batches_add_to_the_term_of_both():
    whole = Term(jnp.float32(6.0), jnp.float32(4.0))
    parts = Term(jnp.float32(5.0), jnp.float32(1.0)) + Term(jnp.float32(1.0), jnp.float32(3.0))
    assert float(parts.mean()) == float(whole.mean()) == 1.5


def test_an_empty_term_is_zero_and_has_finite_gradients():
    assert float(Term(jnp.float32(0.0), jnp.float32(0.0)).mean()) == 0.0
    assert np.isfinite(jax.grad(lambda s: Term(s, jnp.float32(0.0)).mean())(0.0))


def test_total_weighs_means_and_leaves_metrics_out():
    term = lambda s, w: Term(jnp.float32(s), jnp.float32(w))  # noqa: E731
    losses = Losses({"ce": term(6, 3), "stop": term(1, 2), "accuracy": term(9, 10)}, {"ce": 1.0, "stop": 0.5})
    assert float(losses.total()) == 2.0 + 0.5 * 0.5
    means = {name: float(value) for name, value in losses.means().items()}
    assert means["ce"] == 2.0
    assert means["loss"] == 2.25
    assert abs(means["accuracy"] - 0.9) < 1e-6


def test_losses_with_a_shared_name_add_up_under_it():
    a = Losses({"ce": Term(jnp.float32(2), jnp.float32(1)), "x": Term(jnp.float32(1), jnp.float32(1))}, {"ce": 1.0})
    b = Losses({"ce": Term(jnp.float32(4), jnp.float32(2)), "y": Term(jnp.float32(3), jnp.float32(1))}, {"y": 2.0})
    both = a + b
    assert float(both.terms["ce"].mean()) == 2.0
    assert set(both.terms) == {"ce", "x", "y"}
    assert both.coefficients == {"ce": 1.0, "y": 2.0}


def test_structs_travel_through_jit_as_pytrees():
    rows = 2
    batch = Batch(
        samples=np.zeros((rows, 7), np.int16),
        num_samples=np.array([7, 3], np.int32),
        prompt_samples=np.array([2, 1], np.int32),
        text=np.zeros((rows, 4), np.int32),
        text_mask=np.ones((rows, 4), bool),
        text_loss_mask=np.ones((rows, 4), bool),
        token_ends=np.zeros((rows, 4), np.int32),
    )
    doubled = jax.jit(lambda b: b.replace(num_samples=b.num_samples * 2))(batch)
    assert doubled.num_samples.tolist() == [14, 6]
    assert doubled.size == rows
    assert len(jax.tree.leaves(batch)) == len(batch.fields())
