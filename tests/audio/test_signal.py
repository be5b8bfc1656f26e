"""Sample formats and framing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectron.audio import signal

SIZES = [(800, 200), (551, 220), (512, 160), (160, 200), (7, 3), (8, 8)]
frame = jax.jit(signal.frame, static_argnums=(1, 2))
overlap_add = jax.jit(signal.overlap_add, static_argnums=1)


def test_int16_round_trip_is_exact_for_every_value():
    every = np.arange(-32768, 32768).astype(np.int16)
    for library in (np, jnp):
        back = signal.to_int16(signal.from_int16(library.asarray(every)))
        assert back.dtype == np.int16
        np.testing.assert_array_equal(np.asarray(back), every)


def test_loud_samples_clip_and_never_wrap():
    loud = np.array([1.0, 1.5, 1e30, -1.0, -1.5, -1e30, 0.99999], np.float32)
    wanted = [32767, 32767, 32767, -32768, -32768, -32768, 32767]
    assert signal.to_int16(loud).tolist() == wanted
    assert np.asarray(signal.to_int16(jnp.asarray(loud))).tolist() == wanted


def test_library_and_float32_are_kept():
    assert isinstance(signal.from_int16(np.zeros(3, np.int16)), np.ndarray)
    assert isinstance(signal.from_int16(jnp.zeros(3, jnp.int16)), jax.Array)
    floats = signal.from_int16(np.array([0.25, -0.5]))
    assert floats.dtype == np.float32 and floats.tolist() == [0.25, -0.5]


@pytest.mark.parametrize(("window", "hop"), SIZES)
@pytest.mark.parametrize("size", [0, 1, 2200])
def test_frames_are_centred_on_their_step(window, hop, size):
    x = np.random.default_rng(0).normal(size=(2, size)).astype(np.float32)
    frames = np.asarray(frame(x, window, hop))
    assert frames.shape == (2, size // hop, window)
    around = np.pad(x, ((0, 0), (2000, 2000)))
    for t in range(size // hop):
        begin = 2000 + t * hop + hop // 2 - window // 2
        np.testing.assert_array_equal(frames[:, t], around[:, begin : begin + window])


@pytest.mark.parametrize(("window", "hop"), SIZES)
def test_overlap_add_is_the_transpose_of_frame(window, hop):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 9 * hop)).astype(np.float32)
    y = rng.normal(size=(2, 9, window)).astype(np.float32)
    there = np.vdot(frame(x, window, hop), y)
    summed = overlap_add(y, hop)
    back = np.vdot(x, summed)
    np.testing.assert_allclose(there, back, rtol=1e-4, atol=1e-3)
    assert summed.shape == (2, 9 * hop)
