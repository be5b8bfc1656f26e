"""Log-mel against librosa, its padding contract, and statistics."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from spectron.audio import features
from spectron.config import FeatureConfig
from spectron.types import Sequence, Statistics, UserError

log_mel = jax.jit(features.log_mel, static_argnums=2)
DEFAULT = FeatureConfig()
SETTINGS = {
    "default": DEFAULT,
    "80 bands, 25/10 ms": FeatureConfig(num_mels=80, window_seconds=0.025, hop_seconds=0.01),
    "22.05 kHz, odd window": FeatureConfig(sample_rate=22_050, num_mels=64, window_seconds=0.025, high_hz=11_025.0),
    "8 kHz": FeatureConfig(sample_rate=8_000, num_mels=40, high_hz=4_000.0, low_hz=0.0),
    "window = transform": FeatureConfig(num_mels=64, window_seconds=0.032),
    "hop divides nothing": FeatureConfig(hop_seconds=0.0111, log_floor=1e-3),
    "hop over window": FeatureConfig(num_mels=20, window_seconds=0.01),
}


def by_librosa(samples: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """int16 [S] → log-mel [S // hop, F] in float64, the frames centred on their steps by padding."""
    steps = len(samples) // config.hop
    left = (config.fft_size - config.window) // 2 - (config.hop // 2 - config.window // 2)
    right = max(0, (steps - 1) * config.hop + config.fft_size - left - len(samples))
    signal = np.pad(samples / 32768, (max(left, 0), right))[max(-left, 0) :]
    mel = librosa.feature.melspectrogram(
        y=signal,
        sr=config.sample_rate,
        n_fft=config.fft_size,
        win_length=config.window,
        hop_length=config.hop,
        center=False,
        n_mels=config.num_mels,
        fmin=config.low_hz,
        fmax=config.high_hz,
    )
    return np.log(np.maximum(mel.T[:steps], config.log_floor))


def ours(samples: np.ndarray, config: FeatureConfig) -> np.ndarray:
    made = log_mel(samples[None], np.array([len(samples)]), config)
    assert made.mask.all()
    return np.asarray(made.values[0])


@pytest.mark.parametrize("dft", ["fft", "matmul"])
@pytest.mark.parametrize("name", SETTINGS)
def test_equals_librosa_on_made_signals(clips, name, dft):
    config = dataclasses.replace(SETTINGS[name], dft=dft)
    rng = np.random.default_rng(0)
    for samples in (
        clips.voiced(1.0, rate=config.sample_rate),
        rng.integers(-32768, 32767, size=config.sample_rate).astype(np.int16),
        np.round(20 * rng.normal(size=config.sample_rate)).astype(np.int16),
    ):
        np.testing.assert_allclose(ours(samples, config), by_librosa(samples, config), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dft", ["fft", "matmul"])
def test_equals_librosa_on_speech(clips, data_dir, dft):
    config = FeatureConfig(dft=dft)
    made = clips.spoken(data_dir)
    together = log_mel(*clips.batch(made), config)
    for row, samples in enumerate(made):
        wanted = by_librosa(samples, config)
        np.testing.assert_allclose(together.values[row, : len(wanted)], wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_both_transforms_give_librosas_numbers_for_any_noise(seed):
    rng = np.random.default_rng(seed)
    gain, colour, noise = rng.uniform(0, 4.5), rng.uniform(0, 0.95), rng.normal(size=4000)
    for i in range(1, len(noise)):
        noise[i] += colour * noise[i - 1]
    samples = np.clip(np.round(10**gain * noise), -32768, 32767).astype(np.int16)
    wanted = by_librosa(samples, DEFAULT)
    np.testing.assert_allclose(ours(samples, DEFAULT), wanted, rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours(samples, FeatureConfig(dft="matmul")), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SETTINGS)
def test_filterbank_equals_librosa(name):
    config = SETTINGS[name]
    wanted = librosa.filters.mel(
        sr=config.sample_rate, n_fft=config.fft_size, n_mels=config.num_mels, fmin=config.low_hz, fmax=config.high_hz
    )
    np.testing.assert_allclose(features.mel_filterbank(config), wanted.T, rtol=1e-5, atol=1e-8)


def test_a_published_prompt_is_300_frames():
    made = jax.eval_shape(
        lambda x, n: features.log_mel(x, n, DEFAULT), jnp.zeros((2, 60_000), jnp.int16), jnp.zeros(2, int)
    )
    assert made.values.shape == (2, 300, 128) and made.values.dtype == jnp.float32
    assert made.mask.shape == (2, 300) and made.mask.dtype == bool


def test_an_impulse_is_seen_by_the_frame_it_stands_in():
    samples = np.zeros(6000, np.int16)
    samples[10 * 200 + 100] = 30_000
    energy = np.exp(ours(samples, DEFAULT)).sum(axis=1)
    assert energy.argmax() == 10
    np.testing.assert_allclose(energy[9], energy[11], rtol=1e-4)
    floor = DEFAULT.num_mels * DEFAULT.log_floor
    np.testing.assert_allclose(energy[[7, 13]], floor, rtol=1e-4)  # beyond half a window: nothing


def test_silence_is_the_floor():
    np.testing.assert_allclose(ours(np.zeros(2000, np.int16), DEFAULT), np.log(1e-5), rtol=1e-6)


@pytest.mark.parametrize("dft", ["fft", "matmul"])
def test_padding_changes_nothing(clips, dft):
    config = FeatureConfig(dft=dft)
    samples, lengths = clips.batch([clips.voiced(s, seed=i) for i, s in enumerate((0.5, 0.2, 0.37))])
    clean = log_mel(samples, lengths, config)
    assert clean.lengths.tolist() == (lengths // 200).tolist()
    assert (np.asarray(clean.values)[~np.asarray(clean.mask)] == 0).all()
    past = np.arange(samples.shape[1]) >= lengths[:, None]
    garbage = np.where(past, np.random.default_rng(0).integers(-32768, 32767, samples.shape), samples).astype(np.int16)
    np.testing.assert_array_equal(log_mel(garbage, lengths, config).values, clean.values)
    nan = np.where(past, np.float32(np.nan), samples / np.float32(32768)).astype(np.float32)
    np.testing.assert_array_equal(log_mel(nan, lengths, config).values, clean.values)


@pytest.mark.parametrize("dft", ["fft", "matmul"])
def test_a_row_alone_equals_the_row_in_a_batch(clips, dft):
    config = FeatureConfig(dft=dft)
    made = [clips.voiced(s, seed=i) for i, s in enumerate((0.5, 0.2, 0.371))]
    together = log_mel(*clips.batch(made), config)
    for row, clip in enumerate(made):
        alone = ours(clip, config)
        np.testing.assert_allclose(together.values[row, : len(alone)], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [0, 199])
def test_less_than_a_step_is_no_frame(size):
    made = log_mel(np.zeros((2, size), np.int16), np.full(2, size), DEFAULT)
    assert made.values.shape == (2, 0, 128) and made.mask.shape == (2, 0)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"num_mels": 1000}, "num_mels"),
        ({"high_hz": 9000.0}, "high_hz"),
        ({"low_hz": 8000.0}, "low_hz"),
        ({"hop_seconds": 0.0}, "hop_seconds"),
        ({"dft": "slow"}, "dft"),
    ],
)
def test_an_impossible_setting_is_named(change, key):
    with pytest.raises(UserError, match=key):
        features.log_mel(jnp.zeros((1, 800), jnp.int16), jnp.array([800]), dataclasses.replace(DEFAULT, **change))


def test_normalise_and_back():
    rng = np.random.default_rng(0)
    values = rng.normal(-5, 2, size=(2, 7, 128)).astype(np.float32)
    values[1, 4:] = np.nan
    mask = np.arange(7) < np.array([[7], [4]])
    stats = Statistics(rng.normal(size=128).astype(np.float32), rng.uniform(0.5, 2, size=128).astype(np.float32))
    made = features.normalise(Sequence(values, mask), stats)
    assert (np.asarray(made.values)[~mask] == 0).all()
    np.testing.assert_allclose(made.values[0], (values[0] - stats.mean) / stats.std, rtol=1e-5, atol=1e-5)
    back = features.denormalise(made.values, stats)
    np.testing.assert_allclose(np.asarray(back)[mask], values[mask], rtol=1e-5, atol=1e-5)


def test_statistics_are_those_of_all_frames():
    rng = np.random.default_rng(0)
    parts = [rng.normal(1000, 1 + np.arange(128) / 20, size=(n, 128)) for n in (5, 0, 300, 41)]
    joined = np.concatenate(parts)
    stats = features.measure(iter(parts), DEFAULT)  # the offset of 1000 would show cancelling sums
    np.testing.assert_allclose(stats.mean, joined.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(stats.std, joined.std(axis=0), rtol=1e-5)
    assert stats.mean.dtype == stats.std.dtype == np.float32
    one = features.measure(parts, FeatureConfig(per_band=False))
    np.testing.assert_allclose(one.mean, np.full(128, joined.mean()), rtol=1e-6)
    np.testing.assert_allclose(one.std, np.full(128, joined.std()), rtol=1e-5)


def test_an_empty_band_is_not_blown_up():
    stats = features.measure([np.full((10, 128), -11.5)], DEFAULT)
    np.testing.assert_array_equal(stats.std, np.full(128, DEFAULT.std_floor, np.float32))


def test_no_frame_to_measure_is_a_sentence():
    with pytest.raises(UserError, match="no frame"):
        features.measure([np.zeros((0, 128))], DEFAULT)


def test_imports_on_a_machine_with_jax_and_numpy_alone():
    blocked = ("librosa", "soundfile", "soxr", "tensorflow", "seqio", "flax", "scipy.signal")
    program = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); import spectron.audio.features, "
    program += "spectron.vocoders.griffin_lim, spectron.audio.wav, spectron.audio.signal"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
