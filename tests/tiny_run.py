"""A training run small enough to be started, killed and started again by tests: `python tiny_run.py WORKDIR [options]`.

The batches are noise made from (seed, step), so that no corpus is read; the objectives are stand-ins that compile in a
second, unless --real is given.
"""

from spectron.parallel import supervisor

if __name__ == "__main__":
    supervisor.reexec_supervised()  # before anything heavy is imported

import argparse
import dataclasses
import itertools
import json
import sys
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spectron.audio import wav
from spectron.audio.features import log_mel, normalise
from spectron.config import (
    AdamConfig,
    ConformerConfig,
    CTCConfig,
    DataConfig,
    Experiment,
    FeatureConfig,
    FramesConfig,
    JointConfig,
    LMConfig,
    ModelConfig,
    StageConfig,
    StreamConfig,
    TaskConfig,
    TextLMConfig,
    WordsConfig,
    override,
)
from spectron.cost.flops import Flops
from spectron.objectives import Objective
from spectron.parallel import multihost
from spectron.training import loop as training
from spectron.training import step as step_module
from spectron.types import Batch, Losses, Term, UserError

WORDS = ("zero", "one", "two", "three")


def experiment(*overrides: str) -> Experiment:
    """Three stages: text alone, then speech recognition beside text, then the whole from there."""
    features = FeatureConfig(num_mels=16, low_hz=100.0)
    model = ModelConfig(
        encoder=ConformerConfig(
            features=features, dim=16, num_layers=1, num_heads=2, kernel_size=3, ff_multiple=2, conv_channels=4
        ),
        lm=LMConfig(dim=16, num_layers=2, num_heads=2, num_kv_heads=1, ff_dim=32, dropout=0.1),
        frames=FramesConfig(frames_per_step=2, bottleneck=8),
    )
    data = DataConfig(
        vocabulary=WordsConfig(WORDS),
        max_tokens=6,
        max_seconds=0.5,
        max_prompt_seconds=0.2,
        max_continuation_seconds=0.3,
    )
    optimizer = AdamConfig(learning_rate=0.01, warmup_steps=2)
    text = StreamConfig(TextLMConfig(prefix_tokens=2), "text", 16)
    ctc, joint = StreamConfig(CTCConfig(), "speech", 8), StreamConfig(JointConfig(), "speech", 8)
    stages = (
        StageConfig("text", (text,), 12, optimizer, ema_decay=0.9, save_every=4, log_every=3),
        StageConfig("speech", (ctc, text), 12, optimizer, (("lm", "text"),), ema_decay=0.9, save_every=4, log_every=1),
        StageConfig(
            "joint",
            (joint,),
            2,
            optimizer,
            (("encoder", "speech"), ("lm", "speech")),
            ema_decay=0.9,
            save_every=4,
            log_every=1,
        ),
    )
    return override(Experiment("tiny", data, stages, features, model), overrides)


def bucketed(config: Experiment, folder: Path) -> Experiment:
    """The experiment on recordings of 0.25 to 0.5 s in three buckets, which are written to a folder first; one stage
    "ctc", and "joint" by itself."""
    rng, lines = np.random.default_rng(0), []
    for i, seconds in enumerate(rng.uniform(0.25, 0.5, 60).round(3)):
        samples = (rng.normal(size=round(seconds * 16_000)) * 1000).astype(np.int16)
        if not (folder / f"{i}.flac").exists():
            wav.write(folder / f"{i}.flac", samples, 16_000)
        lines.append(json.dumps({"id": str(i), "audio": f"{i}.flac", "text": "one two", "duration": seconds}))
    if not (folder / "manifest.jsonl").exists():
        (folder / "manifest.jsonl").write_text("\n".join(lines))
    data = dataclasses.replace(
        config.data, root=str(folder), reader="direct", tasks=(TaskConfig("heard", "manifest"),),
        prompt_seconds=0.2, min_continuation_seconds=0.0125, buckets=(0.3, 0.4), bucket_tokens=(4, 5), row_multiple=2,
    )  # fmt: skip
    ctc = StageConfig(
        "ctc",
        (StreamConfig(CTCConfig(), "heard", 4),),
        9,
        config.stage("speech").optimizer,
        accumulate=config.stage("speech").accumulate,
        ema_decay=0.9,
        log_every=1,
    )
    joint = dataclasses.replace(
        config.stage("joint"), streams=(StreamConfig(JointConfig(), "heard", 4),), start_from=()
    )
    return dataclasses.replace(config, data=data, stages=(ctc, joint))


def noise_batch(config: Experiment, mixture: str, rows: int, seed: int, step: int) -> Batch:
    """A batch of noise; the mixture "text" has no samples."""
    rng = np.random.default_rng((seed, step))
    size = 0 if mixture == "text" else round(config.data.max_seconds * config.features.sample_rate)
    length = config.data.max_tokens
    tokens = rng.integers(3, length + 1, rows)
    text = rng.integers(4, 4 + len(WORDS), (rows, length)).astype(np.int32)
    mask = np.arange(length)[None, :] < tokens[:, None]
    known = np.pad(mask[:, 1:], ((0, 0), (0, 1)))  # all but the last token, which is eos
    num_samples = rng.integers(size * 2 // 3, size + 1, rows).astype(np.int32)
    return Batch(
        samples=rng.integers(-3000, 3000, (rows, size)).astype(np.int16),
        num_samples=num_samples,
        prompt_samples=(num_samples // 3).astype(np.int32),
        text=np.where(mask, text, 0).astype(np.int32),
        text_mask=mask,
        text_loss_mask=mask & ((np.arange(length)[None, :] < 3) | (np.arange(rows) % 2 == 0)[:, None]),
        token_ends=np.where(known, num_samples[:, None] * np.arange(1, length + 1) // length, 0).astype(np.int32),
    )


class NoiseFeed:
    """What make_feed returns, without data; `pause` seconds a batch."""

    pause = 0.0
    fingerprints: dict = {}  # noqa: RUF012 - of no data

    def __init__(self, config, mixture, batch_size, process_index=0, process_count=1, seed=0, opened=None):
        self.config, self.mixture, self.rows, self.seed = config, mixture, batch_size, seed
        part = batch_size // process_count
        self.mine = slice(process_index * part, (process_index + 1) * part)

    def batches(self, start_step=0):
        for step in itertools.count(start_step):
            time.sleep(self.pause)
            whole = noise_batch(self.config, self.mixture, self.rows, self.seed, step)
            yield jax.tree.map(lambda x: x[self.mine], whole)

    def in_order(self, size):
        for step in itertools.count():
            yield noise_batch(self.config, self.mixture, size, self.seed, step)


class Stand(Objective):
    """An objective with the habits of the real ones: boxed stacked parameters, log-mel, dropout, sums and weights."""

    def __init__(self, config, experiment, statistics):
        super().__init__(config, experiment, statistics)
        self.parts = {"text_lm": ("lm",), "ctc": ("encoder", "ctc_head")}[self.name]

    def flops(self, shape):
        return Flops()

    def positions(self, shape, num_samples, prompt_samples, num_tokens):
        return num_tokens, shape.tokens

    def init(self, key, batch):
        def part(key):
            kernel = nn.LogicallyPartitioned(0.3 * jax.random.normal(key, (2, 16, 16)), ("layers", "embed", "mlp"))
            return {"layers": {"kernel": kernel}, "bias": nn.LogicallyPartitioned(jnp.zeros(16), ("mlp",))}

        return {name: part(jax.random.fold_in(key, i)) for i, name in enumerate(self.parts)}

    def loss(self, params, batch, key, train=True):
        if self.name == "ctc":
            mel = normalise(log_mel(batch.samples, batch.num_samples, self.features), self.statistics)
            x, mask = mel.values, mel.mask
        else:
            x, mask = jax.nn.one_hot(batch.text, 16), batch.text_mask
        target = jnp.roll(x, 1, axis=1)
        for part in self.parts:
            for layer in range(2):
                x = jnp.tanh(x @ params[part]["layers"]["kernel"][layer] + params[part]["bias"])
        if train:
            x = x * jax.random.bernoulli(key, 0.9, x.shape)
        error = jnp.where(mask[..., None], jnp.square(x - target), 0.0)
        term = Term(error.sum(), mask.sum().astype(jnp.float32))
        return Losses({self.name: term, f"{self.name}_metric": term}, {self.name: jnp.float32(1.0)})


def stands(streams, experiment, statistics=None):
    """In place of make_objectives."""
    return [Stand(stream.objective, experiment, statistics) for stream in streams]


def main() -> int:
    """Train; 2 and a sentence for a UserError, as the command line does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--mesh", type=str, default="")
    parser.add_argument("--stages", nargs="*", default=["text", "speech"])
    parser.add_argument("--file-limit", type=int, default=0)
    parser.add_argument("--buckets", type=Path, help="a folder for recordings, instead of noise from memory")
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--set", nargs="*", default=[])
    arguments = parser.parse_args()
    NoiseFeed.pause = arguments.pause
    if not arguments.buckets:
        training.make_feed = NoiseFeed
    if not arguments.real:
        step_module.make_objectives = stands
    config = experiment(*arguments.set)
    if arguments.buckets:
        config = bucketed(config, arguments.buckets)
    if arguments.mesh:
        mesh = [pair.split("=") for pair in arguments.mesh.split(",")]
        config = dataclasses.replace(config, mesh=tuple((name, int(size)) for name, size in mesh))
    if arguments.file_limit:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.file_limit, arguments.file_limit))
    multihost.connect()
    try:
        with multihost.watching():
            print("finished" if training.train(config, arguments.workdir, arguments.stages) else "stopped")
    except UserError as error:
        print(f"spectron: {error}", file=sys.stderr)
        return multihost.hard_exit(2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
