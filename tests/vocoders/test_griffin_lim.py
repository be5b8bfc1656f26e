"""What Griffin-Lim gives back: the right length and place, close in log-mel, and the same in any batch."""

import jax
import numpy as np
import pytest

from spectron.audio import features, signal
from spectron.config import FeatureConfig
from spectron.types import Sequence, length_mask
from spectron.vocoders import griffin_lim

CONFIG = FeatureConfig()
log_mel = jax.jit(features.log_mel, static_argnums=2)
invert_mel = jax.jit(griffin_lim.invert_mel, static_argnums=1)


def analysed(samples: np.ndarray, num_samples: np.ndarray) -> Sequence:
    sequence = log_mel(samples, num_samples, CONFIG)
    return Sequence(np.asarray(sequence.values), np.asarray(sequence.mask))


def error(audio: np.ndarray, wanted: Sequence) -> float:
    """Mean distance in log units between the log-mel of float audio [B, S] and the wanted one."""
    made = log_mel(audio, wanted.mask.sum(axis=1) * CONFIG.hop, CONFIG)
    return float(np.abs(np.asarray(made.values) - wanted.values)[wanted.mask].mean())


@pytest.fixture(scope="module")
def made(clips) -> Sequence:
    return analysed(*clips.batch([clips.voiced(0.7, 110, 0), clips.voiced(0.41, 210, 1), clips.voiced(0.56, 160, 2)]))


def test_the_mel_of_the_inverse_is_the_mel(made):
    magnitude = np.asarray(invert_mel(made.values, CONFIG))
    assert magnitude.shape == (*made.values.shape[:2], 513)
    assert (magnitude >= 0).all() and np.isfinite(magnitude).all()
    back = np.log(np.square(magnitude) @ features.mel_filterbank(CONFIG))
    assert np.abs(back - made.values)[made.mask].mean() < 0.01
    assert np.abs(back - made.values)[made.mask].max() < 0.6


def test_bins_below_and_above_the_bands_stay_empty(made):
    config = FeatureConfig(low_hz=300.0, high_hz=6000.0, num_mels=64)
    magnitude = np.asarray(invert_mel(made.values[..., :64], config))
    hz = np.arange(513) * 16_000 / 1024
    assert (magnitude[..., (hz < 300) | (hz > 6000)] == 0).all()
    assert (magnitude[made.mask][:, (hz > 400) & (hz < 5900)] > 0).all()


def test_what_the_network_may_dream_stays_finite():
    rng = np.random.default_rng(0)
    dream = rng.normal(-4, 6, size=(40, 128)).astype(np.float32)  # no sound has this mel
    audio = griffin_lim.griffin_lim(dream, CONFIG, iterations=4)
    assert audio.shape == (8000,) and np.isfinite(audio).all()


def test_audio_has_the_log_mel_it_was_made_from(made):
    audio = griffin_lim.griffin_lim_batch(made, CONFIG)
    assert audio.dtype == np.float32 and audio.shape == (3, made.values.shape[1] * CONFIG.hop)
    assert error(audio, made) < 0.25
    assert error(audio, made) < 0.6 * error(
        griffin_lim.griffin_lim_batch(made, CONFIG, 0), made
    )  # the iterations are the cure


def test_real_speech_comes_back(clips, data_dir):
    spoken = analysed(*clips.batch(clips.spoken(data_dir, count=4, digits=2)))
    audio = griffin_lim.griffin_lim_batch(spoken, CONFIG)
    assert error(audio, spoken) < 0.13  # measured: 0.105 on longer utterances
    assert np.abs(audio).max() < 1.3  # as loud as the clips, not by orders


def test_sound_stays_where_it_was(clips):
    samples = np.zeros(12_000, np.int16)
    samples[5_000:5_400] = clips.voiced(400 / 16_000, 400.0, seed=3)
    samples[5_000:5_400] += np.random.default_rng(0).integers(-9000, 9000, 400).astype(np.int16)
    sequence = analysed(*clips.batch([samples]))
    energy = np.square(griffin_lim.griffin_lim(sequence.values[0], CONFIG))
    centre = (energy * np.arange(energy.size)).sum() / energy.sum()
    wanted = np.square(samples.astype(float))
    assert centre == pytest.approx((wanted * np.arange(wanted.size)).sum() / wanted.sum(), abs=CONFIG.hop / 2)


def test_a_row_alone_equals_the_row_in_a_batch(made):
    together = griffin_lim.griffin_lim_batch(made, CONFIG, 8)
    for row, length in enumerate(made.mask.sum(axis=1)):
        alone = griffin_lim.griffin_lim(made.values[row, :length], CONFIG, 8)
        assert alone.shape == (length * CONFIG.hop,)
        np.testing.assert_allclose(together[row, : len(alone)], alone, rtol=0, atol=1e-4)


def test_padding_changes_nothing_and_is_silent(made):
    clean = griffin_lim.griffin_lim_batch(made, CONFIG, 8)
    dirty = Sequence(np.where(made.mask[..., None], made.values, np.nan), made.mask)
    np.testing.assert_array_equal(griffin_lim.griffin_lim_batch(dirty, CONFIG, 8), clean)
    past = ~np.repeat(made.mask, CONFIG.hop, axis=1)
    assert past.any() and (clean[past] == 0).all()


def test_many_rows_keep_their_order():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 30, size=13)
    loudness = np.linspace(-6, 0, len(lengths))
    values = np.broadcast_to(loudness[:, None, None], (len(lengths), 30, 128)).astype(np.float32)
    audio = griffin_lim.griffin_lim_batch(Sequence(values, np.asarray(length_mask(lengths, 30))), CONFIG, 4)
    rms = [np.sqrt(np.square(a[: n * CONFIG.hop]).mean()) for a, n in zip(audio, lengths, strict=True)]
    assert (np.diff(rms) > 0).all()


def test_the_seed_decides(made):
    one = Sequence(made.values[:1, :30], made.mask[:1, :30])
    first, again, other = (griffin_lim.griffin_lim_batch(one, CONFIG, 4, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_nothing_in_nothing_out():
    assert griffin_lim.griffin_lim(np.zeros((0, 128), np.float32), CONFIG).shape == (0,)
    empty = Sequence(np.zeros((2, 10, 128), np.float32), np.zeros((2, 10), bool))
    audio = griffin_lim.griffin_lim_batch(empty, CONFIG)
    assert audio.shape == (2, 2000) and (audio == 0).all()


def test_other_framing(clips):
    config = FeatureConfig(num_mels=80, window_seconds=0.025, hop_seconds=0.01)
    sequence = log_mel(*clips.batch([clips.voiced(0.5)]), config)
    audio = griffin_lim.griffin_lim(np.asarray(sequence.values[0]), config, 16)
    assert audio.shape == (50 * 160,)
    back = log_mel(signal.to_int16(audio)[None], np.array([audio.size]), config)
    assert np.abs(np.asarray(back.values - sequence.values)).mean() < 0.35
