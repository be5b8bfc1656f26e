"""Pictures of spectrograms as PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from spectron.config import FeatureConfig

# Ours: black is 80 dB below the loudest, or the quietest if that is louder (a model's log floor). The others in pixels.
RANGE_NATS = 8 * math.log(10)
WIDTH, HEIGHT, GAP = 540, 104, 8  # of a row's picture, and between rows
LEFT, BOTTOM, FONT = 78, 34, 12  # room for the rows' labels and for the axis of seconds; size of the letters
LINE, INK = (77, 208, 225), (29, 31, 36)
# Anchors of matplotlib's colour map magma (CC0), from dark to light.
MAGMA = np.array(
    [(0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122), (229, 80, 100), (251, 135, 97)]
    + [(254, 194, 135), (252, 253, 191)]
)


def spectrograms(
    rows: Sequence[tuple[str, Float[np.ndarray, "_ F"], Float[np.ndarray, "_ F"]]],
    features: FeatureConfig,
    scale: int = 2,
) -> bytes:
    """Rows of (label, log-mel of the prompt, log-mel of what follows) → PNG bytes.

    The rows share one time axis and one scale of loudness; a vertical line separates the prompt from what follows.
    scale: pixels of the picture for each of the layout's.
    """
    from PIL import Image, ImageDraw, ImageFont  # here: generate draws no pictures of many inputs

    frames = max(1, *(len(prompt) + len(rest) for _, prompt, rest in rows))
    parts = [part for row in rows for part in row[1:] if len(part)]
    loudest = max((float(part.max()) for part in parts), default=0.0)
    quietest = max(loudest - RANGE_NATS, min((float(part.min()) for part in parts), default=0.0))
    height = len(rows) * (HEIGHT + GAP) + BOTTOM
    image = Image.new("RGB", ((LEFT + WIDTH + GAP) * scale, height * scale), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(FONT * scale)
    for number, (label, prompt, rest) in enumerate(rows):
        top = GAP + number * (HEIGHT + GAP)
        draw.rectangle(_box(LEFT, top, LEFT + WIDTH, top + HEIGHT, scale), fill="black")
        picture = Image.fromarray(colours(np.concatenate([prompt, rest]), quietest, loudest))
        if picture.width:
            size = (max(1, round(picture.width / frames * WIDTH * scale)), HEIGHT * scale)
            image.paste(picture.resize(size, Image.Resampling.BILINEAR), (LEFT * scale, top * scale))
        line = LEFT + len(prompt) / frames * WIDTH
        draw.rectangle(_box(line - 0.75, top, line + 0.75, top + HEIGHT, scale), fill=LINE)
        at = ((LEFT - GAP) * scale, (top + HEIGHT / 2) * scale)
        draw.text(at, label, fill=INK, font=font, anchor="rm")
    _time_axis(draw, font, frames * features.hop_seconds, height - BOTTOM + GAP, scale)
    png = io.BytesIO()
    image.quantize(128, dither=Image.Dither.NONE).save(png, format="png")  # a third of the bytes
    return png.getvalue()


def colours(log_mel: Float[np.ndarray, "T F"], quietest: float, loudest: float) -> UInt8[np.ndarray, "F T 3"]:
    """Log-mel → colours, low bands at the bottom. quietest, loudest: the values that are black and the lightest."""
    span = max(loudest - quietest, 1e-3)
    share = np.clip((log_mel.T[::-1] - quietest) / span, 0, 1) * (len(MAGMA) - 1)
    anchors = np.arange(len(MAGMA))
    return np.stack([np.interp(share, anchors, MAGMA[:, i]) for i in range(3)], axis=-1).astype(np.uint8)


def _time_axis(draw: Any, font: Any, seconds: float, top: int, scale: int) -> None:
    """Ticks of 0.5, 1, 2 or 5 … s, at most eight."""
    step = next(unit for n in range(9) for unit in (0.5 * 10**n, 1.0 * 10**n, 2.0 * 10**n) if seconds / unit <= 8)
    for tick in np.arange(0, seconds + 1e-9, step):
        x = LEFT + tick / seconds * WIDTH
        draw.rectangle(_box(x - 0.5, top - 2, x + 0.5, top + 2, scale), fill=INK)
        draw.text((x * scale, (top + 3) * scale), f"{tick:g}", fill=INK, font=font, anchor="mt")
    draw.text(((LEFT - GAP) * scale, (top + 3) * scale), "seconds", fill=INK, font=font, anchor="rt")


def _box(left: float | int, top: int, right: float | int, bottom: int, scale: int) -> tuple[int, int, int, int]:
    """Corners of a rectangle, both inside it; at least a pixel wide."""
    first = round(left * scale)
    return first, top * scale, max(first, round(right * scale) - 1), bottom * scale - 1
