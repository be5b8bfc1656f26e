"""Pictures of spectrograms as PNG."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from spectron.config import FeatureConfig
from spectron.types import UserError


def check() -> None:
    """Raise UserError when matplotlib is missing; called before long work."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("Spectrogram pictures need matplotlib: pip install 'spectron-jax[eval]'.")


def spectrograms(
    rows: Sequence[tuple[str, Float[np.ndarray, "_ F"], Float[np.ndarray, "_ F"]]],
    features: FeatureConfig,
    dpi: int = 110,
) -> bytes:
    """Rows of (label, log-mel of the prompt, log-mel of what follows) → PNG bytes.

    The rows share one time axis; a vertical line separates the prompt from what follows.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Figure without pyplot: no global state, nothing to close, thread-safe.
    figure = Figure(figsize=(5.4, 0.3 + 1.0 * len(rows)), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    seconds = max(len(prompt) + len(continuation) for _, prompt, continuation in rows) * features.hop_seconds
    loudest = max(float(part.max()) for row in rows for part in row[1:] if len(part))
    for axis, (label, prompt, continuation) in zip(axes, rows, strict=True):
        log_mel = np.concatenate([prompt, continuation])
        end = len(log_mel) * features.hop_seconds
        axis.imshow(
            log_mel.T,
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
