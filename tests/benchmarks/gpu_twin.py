"""The PyTorch side of gpu.py: the twin on a GPU, bfloat16 by autocast, eager or compiled, AdamW fused.

As in ours, parameters, log-mel, norms, softmax and losses are float32, and the embedding is tied. Autocast keeps the
residual stream in float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import torch
from benchmarks import torch_training
from benchmarks.torch_twin import Masked, Twin
from torch import Tensor, nn

from spectron.config import Experiment, StageConfig
from spectron.objectives import make_objective
from spectron.parallel.sharding import unbox
from spectron.types import Batch, Statistics

AGREE = 1e-3  # of the losses in float32: sums of another order, and another Fourier transform


class WideFeatures(Twin):
    """The twin with its log-mel kept out of autocast."""

    def log_mel(self, samples: Tensor, num_samples: Tensor) -> Masked:
        """As Twin's."""
        with torch.autocast(samples.device.type, enabled=False):
            return super().log_mel(samples, num_samples)


def on_device(batch: Batch, device: str) -> Batch:
    """The numpy batch as tensors there."""
    return Batch(**{name: value.to(device) for name, value in torch_training.to_torch(batch).fields().items()})


def differences(experiment: Experiment, statistics: Statistics, batch: Batch, device: str) -> dict[str, float]:
    """Relative difference of every loss without dropout, ours (where JAX is) against the twin's, both in float32.

    Raises ValueError if one is above AGREE: the twin would be another model.
    """
    experiment = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, compute_dtype="float32"))
    objective = make_objective(experiment.stages[-1].streams[0].objective, experiment, statistics)
    shapes = unbox(jax.eval_shape(objective.init, jax.random.key(0), batch))
    rng = np.random.default_rng(0)  # all of them noise: fresh biases and scales would hide what they do
    params = jax.tree.map(lambda x: (0.3 * rng.normal(size=x.shape)).astype(np.float32), shapes)
    loss = jax.jit(lambda params: objective.loss(params, batch, jax.random.key(0), train=False).means())
    mine = jax.device_get(loss(params))
    twin = WideFeatures(experiment, statistics)
    twin.load_state_dict(torch_training.laid_out(params))
    torch.backends.cudnn.allow_tf32 = False  # which convolutions would use; the timed ones are bfloat16
    with torch.no_grad():
        theirs = torch_training.joint_terms(twin.to(device).eval(), on_device(batch, device))
    found = {}
    for name, value in theirs.items():
        found[name] = abs(value.item() - float(mine[name])) / max(abs(float(mine[name])), 1e-6)
        if not found[name] <= AGREE:
            raise ValueError(f"the twin is another model: {name} is {value.item():.5g}, ours {float(mine[name]):.5g}")
    return found


def adamw(twin: Twin, stage: StageConfig) -> torch.optim.Optimizer:
    """As ours: matrices decay, vectors do not. Stride-2 kernels are kept 2-D, depthwise ones are 3-D."""
    c = stage.optimizer
    params = list(twin.parameters())
    groups = [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": c.weight_decay},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=c.learning_rate, betas=(c.b1, c.b2), eps=1e-8, fused=True)


def make_step(
    experiment: Experiment, stage: StageConfig, statistics: Statistics, batch: Batch, device: str, compiled: bool
) -> Callable[[], float]:
    """One training step on a batch that is there already, waited for; it returns the loss."""
    torch.manual_seed(0)
    twin = WideFeatures(experiment, statistics).to(device).train()
    optimizer, there = adamw(twin, stage), on_device(batch, device)

    def forward(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(device, torch.bfloat16):
            terms = torch_training.joint_terms(twin, batch)
            return torch_training.total(twin, terms), terms

    loss_of = torch.compile(forward, dynamic=False) if compiled else forward
    count = 0

    def step() -> float:
        nonlocal count
        loss, _ = loss_of(there)
        loss.backward()
        nn.utils.clip_grad_norm_(twin.parameters(), stage.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = stage.optimizer.learning_rate * torch_training.cosine(stage.optimizer, stage.steps, count)
        optimizer.step()
        optimizer.zero_grad()
        count += 1
        if device == "cuda":
            torch.cuda.synchronize()
        return loss.item()

    return step


def peak_bytes(device: str) -> int | None:
    """The most that tensors held at once; None where nobody counts."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else None


def place() -> str:
    """Where PyTorch runs here: "cuda" or "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"
