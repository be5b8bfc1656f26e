"""Training the PyTorch twin: our parameters and batches as tensors, the losses, Adam and Muon, one step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.torch_twin import Masked, Twin, length_mask, masked
from torch import Tensor, nn

from spectron.config import LearningRateConfig, MuonConfig, StageConfig
from spectron.types import Batch

SOS = 2


def laid_out(tree: Any) -> dict[str, Tensor]:
    """Our parameters (or their gradients; layers scanned) as a state_dict of the twin."""
    found: dict[str, Tensor] = {}

    def add(names: list[str], value: np.ndarray) -> None:
        if names[-1] != "kernel":
            pass
        elif names[-2].startswith("conv_"):
            value = value.reshape(3, -1, value.shape[-1]).transpose(2, 1, 0).reshape(value.shape[-1], -1)
        elif names[-2] == "depthwise":
            value = value.T[:, None]
        else:
            value = value.T
        kinds = {"kernel": "weight", "scale": "weight", "embedding": "embedding.weight"}
        found[".".join([*names[:-1], kinds.get(names[-1], names[-1])])] = torch.tensor(value.copy())

    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names, value = [str(entry.key) for entry in path], np.asarray(leaf)
        if "layers" not in names:
            add(names, value)
            continue
        at = names.index("layers") + 1  # then "block", which a ModuleList does not have
        for i, layer in enumerate(value):
            add([*names[:at], str(i), *names[at + 1 :]], layer)
    return found


def to_torch(batch: Batch) -> Batch:
    """The same batch as tensors; token ids as int64, as PyTorch wants them."""
    fields = {name: torch.tensor(np.array(value)) for name, value in vars(batch).items()}
    return Batch(**{**fields, "text": fields["text"].long()})


# What goes in, and the losses.


def window(values: Tensor, mask: Tensor, start: Tensor, size: int) -> Masked:
    """`size` frames of each row from its own `start` on, padded at the end."""
    index = start[:, None] + torch.arange(size, device=start.device)
    inside = index.clamp(max=values.shape[1] - 1)[..., None].expand(-1, -1, values.shape[2])
    real = index < mask.sum(dim=1)[:, None]
    return masked(values.gather(1, inside), real), real


def features(twin: Twin, batch: Batch) -> tuple[Masked, Masked]:
    """Normalised log-mel of prompt and continuation."""
    data, c = twin.experiment.data, twin.experiment.features
    step = twin.experiment.model.frames.frames_per_step
    frames = c.num_frames(round(data.max_continuation_seconds * c.sample_rate))
    prompt = twin.log_mel(batch.samples[:, : round(data.max_prompt_seconds * c.sample_rate)], batch.prompt_samples)
    whole = twin.log_mel(batch.samples, batch.num_samples)
    return prompt, window(*whole, batch.prompt_samples // c.hop, -(-frames // step) * step)


def go_frames(prompt: Masked, step: int) -> Tensor:
    """The prompt's last `step` frames, which start the frame stream."""
    values = F.pad(prompt[0], (0, 0, step, 0))
    mask = F.pad(prompt[1], (step, 0), value=True)
    return window(values, mask, prompt[1].sum(dim=1), step)[0]


def feedback(continuation: Masked, go: Tensor, step: int) -> Masked:
    """What the pre-net reads: go, then the continuation without its last step."""
    values, mask = continuation
    shifted = torch.cat([go, values[:, :-step]], dim=1).unflatten(1, (-1, step)).flatten(2)
    real = length_mask(-(-mask.sum(dim=1) // step), shifted.shape[1])
    return masked(shifted, real), real


def shift_right(text: Tensor) -> Tensor:
    """sos, then all but the last token."""
    return torch.cat([torch.full_like(text[:, :1], SOS), text[:, :-1]], dim=1)


def mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean, 0 where nothing is weighed."""
    weights = weights.expand(values.shape).float()
    return (values * weights).sum() / weights.sum().clamp(min=1e-8)


def cross_entropy(logits: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    """Mean over the masked tokens."""
    return mean(F.cross_entropy(logits.flatten(0, 1), text.flatten(), reduction="none"), mask.flatten())


def l12(difference: Tensor, mask: Tensor) -> Tensor:
    """Mean of |d| + d² over the elements of real frames."""
    return mean(difference.abs() + difference.square(), mask[..., None])


def joint_terms(twin: Twin, batch: Batch) -> dict[str, Tensor]:
    """The terms of the Spectron objective, by our names."""
    step, c = twin.experiment.model.frames.frames_per_step, twin.loss
    prompt, continuation = features(twin, batch)
    steps = feedback(continuation, go_frames(prompt, step), step)
    logits, frames, stop, spoken = twin(prompt, (shift_right(batch.text), batch.text_mask), steps)
    mask = continuation[1]
    d = masked(continuation[0] - frames, mask)
    ended = torch.arange(stop.shape[1], device=mask.device) >= mask.sum(dim=1)[:, None] - 1
    weights = torch.where(ended, c.stop_positive_weight, 1.0) * steps[1].repeat_interleave(step, dim=1)
    bce = F.binary_cross_entropy_with_logits(stop, ended.float(), reduction="none")
    right = (logits.argmax(dim=-1) == batch.text).float()
    return {
        "text": cross_entropy(logits, batch.text, batch.text_loss_mask),
        "frames": l12(d, mask),
        "delta_freq": l12(d[..., :-1] - d[..., 1:], mask),
        **{
            f"delta_time_{k}": l12(d[:, :-k] - d[:, k:], mask[:, :-k] & mask[:, k:])
            for k in range(1, c.time_deltas + 1)
        },
        "stop": mean(bce, weights),
        "text_accuracy": mean(right, batch.text_loss_mask),
        **(alignment_terms(twin, batch, spoken, steps[1]) if c.alignment_weight else {}),
        **({"agreement": agreement(twin, batch, logits)} if c.agreement_weight else {}),
    }


def agreement(twin: Twin, batch: Batch, logits: Tensor) -> Tensor:
    """KL of the guesses at unscored tokens from those of the LM that reads the text alone."""
    with torch.no_grad():
        nothing = torch.zeros(len(logits), dtype=torch.long)
        teacher = twin.lm.score(shift_right(batch.text), batch.text_mask, nothing).log_softmax(dim=-1)
    divergence = F.kl_div(logits.log_softmax(dim=-1), teacher, reduction="none", log_target=True).sum(dim=-1)
    return mean(divergence, batch.text_mask & ~batch.text_loss_mask)


def alignment_terms(twin: Twin, batch: Batch, spoken: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Which token each frame step says, in the rows that know when their tokens end."""
    hop, step = twin.experiment.features.hop, twin.experiment.model.frames.frames_per_step
    middles = (batch.prompt_samples // hop * hop)[:, None] + (torch.arange(mask.shape[1]) * step + step // 2) * hop
    ends = batch.token_ends
    over = (middles[:, :, None] >= ends[:, None, :]) & (ends[:, None, :] > 0)
    labels = batch.text.gather(1, over.sum(dim=-1))
    known = mask & (ends > 0).any(dim=1, keepdim=True)
    return {
        "alignment": cross_entropy(spoken, labels, known),
        "alignment_accuracy": mean((spoken.argmax(dim=-1) == labels).float(), known),
    }


def text_terms(twin: Twin, batch: Batch, prefix_tokens: int) -> dict[str, Tensor]:
    """Text alone as a prefix LM, a random first part unscored."""
    lengths = batch.text_mask.sum(dim=1)
    prefix = (torch.rand(len(lengths)) * ((lengths - 1).clamp(max=prefix_tokens) + 1)).floor().long()
    logits = twin.lm.score(shift_right(batch.text), batch.text_mask, prefix)
    scored = batch.text_loss_mask & (torch.arange(logits.shape[1]) >= prefix[:, None] - 1)
    right = (logits.argmax(dim=-1) == batch.text).float()
    return {"text_lm": cross_entropy(logits, batch.text, scored), "text_lm_accuracy": mean(right, scored)}


def total(twin: Twin, terms: dict[str, Tensor]) -> Tensor:
    """The weighted sum of the joint terms."""
    c = twin.loss
    spectral = sum(value for name, value in terms.items() if name.startswith(("frames", "delta")))
    ours = {"alignment": c.alignment_weight, "agreement": c.agreement_weight}
    extra = sum(weight * terms[name] for name, weight in ours.items() if weight)
    return terms["text"] + c.reconstruction_weight * spectral + c.stop_weight * terms["stop"] + extra


# Optimizers.


class Muon(torch.optim.Optimizer):
    """Muon as published, Newton–Schulz in float32 as optax has it (torch.optim.Muon rounds to bfloat16)."""

    def __init__(self, params: Any, lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every matrix."""
        for group in self.param_groups:
            for param in group["params"]:
                state = self.state[param]
                if not state:
                    state["momentum"] = torch.zeros_like(param)
                buffer = state["momentum"]
                buffer.lerp_(param.grad, 1 - group["momentum"])
                update = orthogonal(param.grad.lerp(buffer, group["momentum"]))
                param.add_(update, alpha=-group["lr"] * math.sqrt(max(1, param.shape[0] / param.shape[1])))


def orthogonal(x: Tensor) -> Tensor:
    """Five Newton–Schulz steps (K. Jordan's coefficients) towards the nearest orthogonal matrix."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-8)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def is_matrix(name: str, param: Tensor) -> bool:
    """What ours gives to Muon: no tables, heads or taps."""
    others = ("lm.embedding", "lm.head", "stop.", "depthwise")
    return param.ndim == 2 and not any(other in name for other in others)


def make_optimizers(twin: Twin, config: LearningRateConfig, muon: Callable[..., Any]) -> list[Any]:
    """Adam, or `muon` for matrices and Adam for the rest; the encoder's rate has its multiplier."""
    multipliers = dict(config.lr_multipliers)

    def groups(chosen: Callable[[str, Tensor], bool], rate: float) -> list[dict[str, Any]]:
        found: dict[float, list[Tensor]] = {}
        for name, param in twin.named_parameters():
            if chosen(name, param):
                found.setdefault(multipliers.get(name.split(".")[0], 1.0), []).append(param)
        return [{"params": params, "lr": rate * factor, "peak": rate * factor} for factor, params in found.items()]

    # fused: the fastest of PyTorch's own.
    adam = {"lr": config.learning_rate, "betas": (config.b1, config.b2), "fused": True}
    if not isinstance(config, MuonConfig):
        return [torch.optim.Adam(groups(lambda *_: True, config.learning_rate), **adam)]
    rest = groups(lambda *each: not is_matrix(*each), config.adam_learning_rate or config.learning_rate)
    return [muon(groups(is_matrix, config.learning_rate), lr=config.learning_rate), torch.optim.Adam(rest, **adam)]


def cosine(config: LearningRateConfig, steps: int, step: int) -> float:
    """The schedule of ours: linear warm-up, then cosine."""
    done = min(max((step - config.warmup_steps) / max(steps - config.warmup_steps, 1), 0.0), 1.0)
    shape = config.final_fraction + (1 - config.final_fraction) * 0.5 * (1 + math.cos(math.pi * done))
    return min((step + 1) / config.warmup_steps, 1.0) * shape


def make_step(twin: Twin, stage: StageConfig, muon: Callable[..., Any] = Muon) -> Callable[..., dict[str, Tensor]]:
    """One training step of the joint stage as a function of its two numpy batches, metrics returned."""
    config = stage.optimizer
    optimizers = make_optimizers(twin, config, muon)
    average = torch.optim.swa_utils.AveragedModel(
        twin, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(stage.ema_decay)
    )
    count = 0

    def step(speech: Batch, text: Batch) -> dict[str, Tensor]:
        nonlocal count
        terms = joint_terms(twin, to_torch(speech))
        loss = total(twin, terms)
        terms |= text_terms(twin, to_torch(text), stage.streams[1].objective.prefix_tokens)
        (loss + stage.streams[1].weight * terms["text_lm"]).backward()
        norm = nn.utils.clip_grad_norm_(twin.parameters(), stage.clip_norm)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * cosine(config, stage.steps, count)
            optimizer.step()
            optimizer.zero_grad()
        average.update_parameters(twin)
        count += 1
        return {**terms, "grad_norm": norm}

    return step
