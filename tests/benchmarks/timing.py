"""Shared by the benchmarks: batches of noise, contenders timed in turn, a Markdown table."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from spectron.config import Experiment
from spectron.data.vocabulary import EOS, SPECIALS, make_vocabulary
from spectron.types import Batch, Statistics, length_mask


def use_all_cores() -> int:
    """Give PyTorch the cores this process may use, as XLA takes them by itself; returns how many."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(cores)
    return cores


def noise_batch(experiment: Experiment, rows: int, seed: int, speech: bool = True) -> Batch:
    """A numpy batch of full size: noise of three quarters of the longest utterance and more, text of most tokens."""
    rng = np.random.default_rng(seed)
    data, rate, length = experiment.data, experiment.features.sample_rate, experiment.data.max_tokens
    size = round(data.max_seconds * rate) if speech else 0
    longest = round(data.max_prompt_seconds * rate) if speech else 0
    tokens = rng.integers(max(length - 1, 1), length + 1, rows)
    mask = np.asarray(length_mask(tokens, length))
    text = rng.integers(SPECIALS, make_vocabulary(data.vocabulary).size, (rows, length))
    text[np.arange(rows), tokens - 1] = EOS
    prompt = rng.integers(longest * 3 // 4, longest + 1, rows)
    num_samples = np.minimum(prompt * 2, size)
    shares = np.arange(1, length + 1) / tokens[:, None]
    return Batch(
        samples=rng.integers(-3000, 3000, (rows, size)).astype(np.int16),
        num_samples=num_samples.astype(np.int32),
        prompt_samples=prompt.astype(np.int32),
        text=np.where(mask, text, 0).astype(np.int32),
        text_mask=mask,
        text_loss_mask=mask,
        token_ends=np.where(shares < 1, num_samples[:, None] * shares, 0).astype(np.int32),
    )


def speech_like(experiment: Experiment) -> Statistics:
    """About the mean and deviation of log-mels of speech."""
    bands = experiment.features.num_mels
    return Statistics(np.full(bands, -6.0, np.float32), np.full(bands, 3.0, np.float32))


def alternate(contenders: dict[str, Callable[[], None]], rounds: int, warm_up: int = 3) -> dict[str, list[float]]:
    """Milliseconds of every call: A B C A B C …, so that what slows the machine slows all of them."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for done in range(warm_up + rounds):
        for name, call in contenders.items():
            time.sleep(0.05)  # threads of the one before go to sleep
            began = time.perf_counter()
            call()
            if done >= warm_up:
                found[name].append(1e3 * (time.perf_counter() - began))
    return found


def table(found: dict[str, list[float]], baselines: dict[str, str]) -> str:
    """Markdown: median, min–max, and the median against that of the row's baseline."""
    lines = ["| | median ms | min–max | n | against |", "|---|---:|---:|---:|---|"]
    for name, times in found.items():
        median, against = statistics.median(times), ""
        if name in baselines:
            ratio = median / statistics.median(found[baselines[name]])
            against = f"{ratio:.2f} × {baselines[name]}"
        lines.append(f"| {name} | {median:.1f} | {min(times):.1f}–{max(times):.1f} | {len(times)} | {against} |")
    return "\n".join(lines)
