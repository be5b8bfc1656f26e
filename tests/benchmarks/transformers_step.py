"""One training step of the digits model (features, forward, backward, Adam): ours against parts of transformers.

    python tests/benchmarks/transformers_step.py [--rounds N] [--config FILE] [--small]

Ours is what `spectron train` runs, with Adam; the peer is the same architecture assembled in PyTorch (differences:
transformers_twin.py), eager mode, AdamW, with both of transformers' attention implementations. Float32, the same
batches of noise, the same number of threads, contenders in turn. The numbers of parameters must agree before anything
is timed. --small is for the tests: it shows that everything runs, not how fast.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (1, 2)]

from benchmarks import step as ours  # noqa: E402
from benchmarks import timing, torch_training  # noqa: E402
from benchmarks.transformers_twin import Assembled  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from spectron.config import Experiment, JointConfig, LearningRateConfig, StageConfig, load_experiment  # noqa: E402
from spectron.objectives import make_objective  # noqa: E402
from spectron.types import Batch  # noqa: E402

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "digits.py"
ATTENTION = ("eager", "sdpa")
TOLERANCE = 0.05  # of the parameter counts
SMALL = (
    *("data.max_seconds=0.5", "data.max_prompt_seconds=0.25", "data.max_continuation_seconds=0.25"),
    *("data.max_tokens=5", "features.num_mels=8", "features.low_hz=100"),
    *("model.encoder.features.num_mels=8", "model.encoder.features.low_hz=100"),
    *("model.encoder.dim=16", "model.encoder.num_layers=1", "model.encoder.num_heads=2"),
    *("model.encoder.conv_channels=8", "model.encoder.ff_multiple=2"),
    *("model.lm.dim=16", "model.lm.num_layers=2", "model.lm.ff_dim=24", "model.frames.bottleneck=8"),
    *("stages.joint.streams.spectron.batch_size=8", "stages.joint.streams.text_lm.batch_size=8"),
)


def sizes(experiment: Experiment) -> tuple[int, int]:
    """Parameters of ours and of theirs; neither is made."""
    statistics = timing.speech_like(experiment)
    objective = make_objective(experiment.stages[-1].streams[0].objective, experiment, statistics)
    shapes = jax.eval_shape(objective.init, jax.random.key(0), timing.noise_batch(experiment, 1, 0))
    with torch.device("meta"):
        assembled = Assembled(experiment, statistics, ATTENTION[0])
    return sum(x.size for x in jax.tree.leaves(shapes)), sum(p.numel() for p in assembled.parameters())


def compare(ours: int, theirs: int) -> str:
    """Both counts in words. Exits where they are too far apart for the same architecture."""
    share = theirs / ours - 1
    words = f"Parameters: ours {ours:,}, transformers {theirs:,} ({share:+.2%})."
    if abs(share) > TOLERANCE:
        sys.exit(f"{words} More than {TOLERANCE:.0%} apart: this would race two different models.")
    return words


def noise(experiment: Experiment) -> tuple[Batch, ...]:
    """A batch for every stream of the joint stage, as step.py makes them."""
    return tuple(
        timing.noise_batch(experiment, stream.batch_size, i, isinstance(stream.objective, JointConfig))
        for i, stream in enumerate(experiment.stage("joint").streams)
    )


def loss(twin: Assembled, stage: StageConfig, batches: tuple[Batch, ...]) -> Tensor:
    """The weighted sum of the streams' losses: all that the stage asks for."""
    found = torch.zeros(())
    for stream, numpy_batch in zip(stage.streams, batches, strict=True):
        batch = torch_training.to_torch(numpy_batch)
        if isinstance(stream.objective, JointConfig):
            term = torch_training.total(twin, torch_training.joint_terms(twin, batch))
        else:
            term = torch_training.text_terms(twin, batch, stream.objective.prefix_tokens)["text_lm"]
        found = found + stream.weight * term
    return found


def make_optimizer(twin: Assembled, config: LearningRateConfig) -> torch.optim.AdamW:
    """AdamW over the twin's groups, the encoder's rate with its multiplier."""
    (adam,) = torch_training.make_optimizers(twin, config, torch_training.Muon)
    groups = [{name: group[name] for name in ("params", "lr", "peak")} for group in adam.param_groups]
    # fused: the fastest of PyTorch's own.
    return torch.optim.AdamW(groups, betas=(config.b1, config.b2), weight_decay=config.weight_decay, fused=True)


def theirs(experiment: Experiment, batches: tuple[Batch, ...], attention: str) -> Callable[[], None]:
    """Their step: losses, backward, clipping, schedule, AdamW and the average of parameters that the stage keeps."""
    stage = ours.joint_stage(experiment, "adam")
    config = stage.optimizer
    torch.manual_seed(0)
    twin = Assembled(experiment, timing.speech_like(experiment), attention).train()
    optimizer = make_optimizer(twin, config)
    average = torch.optim.swa_utils.AveragedModel(
        twin, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(stage.ema_decay)
    )
    count = 0

    def step() -> None:
        nonlocal count
        loss(twin, stage, batches).backward()
        nn.utils.clip_grad_norm_(twin.parameters(), stage.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * torch_training.cosine(config, stage.steps, count)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(twin)
        count += 1

    return step


def main(argv: list[str] | None = None) -> int:
    """Print the counts and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--config", default=str(CONFIG))
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args(argv)
    cores = timing.use_all_cores()
    experiment = load_experiment(arguments.config, SMALL if arguments.small else ())
    counts, batches = compare(*sizes(experiment)), noise(experiment)
    contenders = {"ours, Adam": ours.ours(experiment, "adam", batches, [])}
    names = {f"transformers, {attention} attention, AdamW": attention for attention in ATTENTION}
    contenders |= {name: theirs(experiment, batches, attention) for name, attention in names.items()}
    found = timing.alternate(contenders, arguments.rounds)
    shrunk = ", shrunk for a test" if arguments.small else ""
    print(f"\nOne training step of {experiment.name!r}{shrunk}, {cores} threads, float32. {counts}\n")
    print(timing.table(found, dict.fromkeys(names, "ours, Adam")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
