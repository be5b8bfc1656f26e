"""Pictures of spectrograms."""

import io

import numpy as np
from PIL import Image

from spectron.audio.spectrogram_png import HEIGHT, LEFT, LINE, WIDTH, colours, spectrograms
from spectron.config import FeatureConfig


def test_a_loud_band_is_light_and_the_line_is_where_the_prompt_ends():
    log_mel = np.full((80, 40), -20.0, np.float32)
    log_mel[:, :4] = 3.0  # loud low bands
    png = spectrograms([("real", log_mel[:20], log_mel[20:])], FeatureConfig(), scale=1)
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    top, bottom = pixels[20, LEFT + WIDTH // 2], pixels[HEIGHT, LEFT + WIDTH // 2]
    assert bottom.sum() > 600 > 60 > top.sum()
    (where,) = np.nonzero(np.abs(pixels[40] - LINE).max(axis=1) < 30)
    assert where.size and abs(where.mean() - (LEFT + WIDTH / 4)) < 2


def test_rows_without_frames_and_of_different_lengths():
    none, some = np.zeros((0, 40), np.float32), np.zeros((30, 40), np.float32)
    png = spectrograms([("empty", none, none), ("short", some, none), ("two\nlines", some, some)], FeatureConfig())
    assert Image.open(io.BytesIO(png)).height > 600
    spectrograms([("nothing", none, none)], FeatureConfig())


def test_colours_keep_the_order_of_loudness():
    rising = np.linspace(-25, 0, 100, dtype=np.float32)[:, None]
    assert (np.diff(colours(rising, -20.0, 0.0).astype(int).sum(axis=-1)[0]) >= -1).all()
