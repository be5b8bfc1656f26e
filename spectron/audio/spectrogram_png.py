"""Spectrograms as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from spectron.config import FeatureConfig
from spectron.types import UserError


def check() -> None:
    """Raise UserError when pictures cannot be drawn, before any long work."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError("Spectrogram pictures need matplotlib: pip install 'spectron-jax[eval]'.") from error


def histogram(
    values: Float[np.ndarray, " N"], label: str, marks: Sequence[float] = (), bins: int = 48, dpi: int = 110
) -> bytes:
    """How many values lie where, a line at each mark → PNG bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 1.7), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.hist(values, bins, color="#0b6e7f")
    for mark in marks:
        axis.axvline(mark, color="#b3261e", linewidth=0.8)
    axis.set_xlabel(label, fontsize=7)
    axis.tick_params(labelsize=7)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def spectrograms(
    rows: Sequence[tuple[str, Float[np.ndarray, "T F"], Float[np.ndarray, "T2 F"]]],
    features: FeatureConfig,
    dpi: int = 110,
) -> bytes:
    """Rows of (label, prompt, continuation) log-mels on one time axis, a line at each border → PNG bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Figure without pyplot: no global state, nothing to close, safe beside other threads.
    figure = Figure(figsize=(5.4, 0.3 + 1.0 * len(rows)), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    seconds = max(len(prompt) + len(rest) for _, prompt, rest in rows) * features.hop_seconds
    loudest = max(float(part.max()) for row in rows for part in row[1:] if len(part))
    for axis, (label, prompt, rest) in zip(axes, rows, strict=True):
        both = np.concatenate([prompt, rest])
        end = len(both) * features.hop_seconds
        axis.imshow(
            both.T,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            cmap="magma",
            # One scale for all rows: 80 dB below the loudest is black.
            vmin=loudest - 8 * np.log(10),
            vmax=loudest,
            extent=(0, end, 0, features.num_mels),
        )
        axis.axvline(len(prompt) * features.hop_seconds, color="#4dd0e1", linewidth=1.6)
        axis.set(ylabel=label, yticks=[], xlim=(0, max(seconds, features.hop_seconds)))
        axis.set_facecolor("black")
        axis.tick_params(labelsize=7)
        axis.yaxis.label.set_size(7)
    axes[-1].set_xlabel("seconds", fontsize=7)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
