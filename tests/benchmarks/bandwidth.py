"""How close decoding at batch 1 comes to the memory's speed: a 350 M model in float32, against transformers' generate.

    python tests/benchmarks/bandwidth.py [--rounds N] [--rows N …] [--no-peer]

The LM of configs/spectron_350m.py with random weights. A step must read every weight that it multiplies by (formula:
position_bytes in spectron/cost/flops.py). The machine's bandwidth is what XLA reaches when it sums 1.6 GB, measured in
the same rounds. The peer is a Llama of the same shape (vocabulary, layers, heads, gated feed-forward, tied embeddings)
in PyTorch, float32, with a cache: seconds per token of a greedy `generate` without its prompt, against our text steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (1, 2)]

from spectron.config import EncoderConfig, Experiment, load_experiment  # noqa: E402
from spectron.cost.flops import position_bytes  # noqa: E402
from spectron.inference import decode  # noqa: E402
from spectron.models.conformer import Conformer  # noqa: E402
from spectron.models.decode_layout import for_decoding  # noqa: E402
from spectron.objectives.joint import make_model  # noqa: E402
from spectron.parallel.sharding import unbox  # noqa: E402
from spectron.types import Params, Sequence  # noqa: E402

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "spectron_350m.py"
STEPS = 16
READ = 400_000_000  # float32 values


def random_weights(experiment: Experiment) -> Params:
    """What a step multiplies by, random; a small encoder, which no step reads; a stop head that never fires."""
    bands, step = experiment.features.num_mels, experiment.model.frames.frames_per_step
    small = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, encoder=EncoderConfig()))

    def init() -> Any:
        prompt = Sequence(jnp.zeros((1, 8, bands)), jnp.ones((1, 8), bool))
        tokens = Sequence(jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool))
        frames = Sequence(jnp.zeros((1, 2, step * bands)), jnp.ones((1, 2), bool))
        return make_model(small).init(jax.random.key(0), prompt, tokens, frames)["params"]

    rng = np.random.default_rng(0)

    def fill(path: Any, shape: Any) -> np.ndarray:
        if path[-1].key in ("kernel", "embedding"):
            return rng.standard_normal(shape.shape, np.float32) * shape.shape[-2] ** -0.5
        return np.full(shape.shape, -1e3 if path[0].key == "stop" else 1.0, np.float32)

    params = jax.tree_util.tree_map_with_path(fill, unbox(jax.eval_shape(init)))
    return for_decoding(params, jnp.dtype(experiment.model.compute_dtype))


def stepping(experiment: Experiment, weights: Params, rows: int, phase: str, heard: int) -> Callable[[], float]:
    """Seconds of a step of rows that have heard a whole prompt and write, or speak."""
    limit = decode.limits(experiment)
    room = heard + limit.tokens + limit.steps
    state = decode.idle(weights, experiment=experiment, limit=limit, batch=rows, room=room)

    def run() -> float:
        nonlocal state
        new = jnp.full(rows, heard if phase == "text" else heard + limit.tokens, jnp.int32)
        state = state._replace(
            position=new,
            made=jnp.zeros(rows, jnp.int32),
            steps=jnp.zeros(rows, jnp.int32),
            forced=jnp.full((rows, limit.tokens), 7, jnp.int32),  # never eos
            is_text=jnp.full(rows, phase == "text"),
            done=jnp.zeros(rows, bool),
        )
        jax.block_until_ready(state)
        start = time.perf_counter()
        state = decode.run(weights, state, np.int32(STEPS), experiment=experiment)
        jax.block_until_ready(state)
        return (time.perf_counter() - start) / STEPS

    return run


def peer(experiment: Experiment, heard: int) -> Callable[[], float]:
    """Seconds of a token of transformers' generate, without its prompt."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    lm, size = experiment.model.lm, experiment.data.vocabulary.size
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=lm.dim,
        intermediate_size=lm.ff_dim,
        num_hidden_layers=lm.num_layers,
        num_attention_heads=lm.num_heads,
        num_key_value_heads=lm.num_kv_heads,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).to(torch.float32).eval()
    prompt = torch.full((1, heard), 7)

    def take(tokens: int) -> float:
        start = time.perf_counter()
        with torch.no_grad():
            out = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                pad_token_id=0,
            )
        assert out.shape[1] == heard + tokens
        return time.perf_counter() - start

    return lambda: (take(STEPS + 1) - take(1)) / STEPS


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--no-peer", action="store_true")
    arguments = parser.parse_args()
    experiment = load_experiment(str(CONFIG), ["model.compute_dtype=float32"])
    heard = round(experiment.data.max_prompt_seconds * experiment.features.sample_rate)
    heard = Conformer.output_length(experiment.features.num_frames(heard))
    weights, big = random_weights(experiment), jnp.ones(READ)
    total = jax.jit(jnp.sum)

    def read() -> float:
        start = time.perf_counter()
        total(big).block_until_ready()
        return time.perf_counter() - start

    each: dict[str, Callable[[], float]] = {"reading": read}
    moved = {"reading": 4.0 * READ}
    for rows in arguments.rows:
        for phase in ("text", "frames"):
            name = f"{phase}, {rows} row{'s' * (rows > 1)}"
            each[name] = stepping(experiment, weights, rows, phase, heard)
            seen = heard + STEPS // 2 + (0 if phase == "text" else decode.limits(experiment).tokens)
            moved[name] = position_bytes(experiment, seen, rows)[phase]
    if not arguments.no_peer:
        each["transformers, a token"] = peer(experiment, heard)
    found: dict[str, list[float]] = {name: [] for name in each}
    for done in range(arguments.rounds + 1):
        for name, call in each.items():
            seconds = call()
            if done:
                found[name].append(seconds)
    middle = {name: statistics.median(times) for name, times in found.items()}
    most = moved["reading"] / middle["reading"]
    print(f"\nMemory: {most / 1e9:.1f} GB/s read by XLA. Steps of {experiment.name!r} in float32:\n")
    print("| | median ms | min–max | MB by formula | GB/s | of the memory's |\n|---|---:|---|---:|---:|---:|")
    for name, times in found.items():
        line = f"| {name} | {1e3 * middle[name]:.1f} | {1e3 * min(times):.1f}–{1e3 * max(times):.1f} |"
        if name in moved:
            rate = moved[name] / middle[name]
            line += f" {moved[name] / 1e6:.0f} | {rate / 1e9:.1f} | {100 * rate / most:.0f} % |"
        print(line if name in moved else line + " – | – | – |")
    if not arguments.no_peer and 1 in arguments.rows:
        token, limit = middle["transformers, a token"], decode.limits(experiment)
        ours = limit.tokens * middle["text, 1 row"] + limit.steps * middle["frames, 1 row"]
        answer = f"an answer of {limit.tokens} tokens and {limit.steps} frames ({ours:.1f} s)"
        print(f"\ntransformers over ours: a token {token / middle['text, 1 row']:.2f}, as many tokens as ", end="")
        print(f"{answer} has positions {token * (limit.tokens + limit.steps) / ours:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
