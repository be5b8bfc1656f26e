"""Batch inference on real utterances: continuous batches against static ones and against one recording at a time.

    python tests/benchmarks/generate.py --manifest FILE [--checkpoint DIR] [--items N] [--rows N] [--rounds N]

FILE: "audio" and "text" on every line (a manifest of LibriSpeech). Tables of medians of the rounds, contenders in turn:

- with --checkpoint, files in and files out by `spectron generate` (no pictures), against a loop over
  Spectron.generate that writes the same files;
- decoding alone, of a model of 9 M random parameters that must write each utterance's own transcript letter by
  letter (real lengths, mixed) and then stops: continuous, static batches in the order of the manifest, one by one.

One by one takes every tenth utterance and counts them ten times.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (1, 2)]

from benchmarks import timing  # noqa: E402

from spectron.audio import wav  # noqa: E402
from spectron.config import DataConfig, Experiment, LMConfig, ModelConfig  # noqa: E402
from spectron.decode import decode, limits  # noqa: E402
from spectron.generate import Settings, generate  # noqa: E402
from spectron.inference import Spectron  # noqa: E402
from spectron.inputs import Input  # noqa: E402
from spectron.objectives.joint import make_model  # noqa: E402
from spectron.sharding import unbox  # noqa: E402
from spectron.types import Sequence, Statistics  # noqa: E402

SHARE = 10  # of the utterances one by one takes one in so many
HEARD = 2.0  # seconds of each prompt
LONGEST = 250  # letters


def in_turn(contenders: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Utterances a second, by name and round; each has run once before."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call()
    for _ in range(rounds):
        for name, call in contenders.items():
            found[name].append(call())
            print(f"{name}: {found[name][-1]:.2f} utterances a second", file=sys.stderr)
    return found


def table(found: dict[str, list[float]], base: str) -> str:
    """Markdown: medians, and how many times `base` they are."""
    lines = ["| | utterances a second, median | min–max | ratio |", "|---|---:|---|---:|"]
    for name, rates in found.items():
        ratio = statistics.median(rates) / statistics.median(found[base])
        lines.append(f"| {name} | {statistics.median(rates):.2f} | {min(rates):.2f}–{max(rates):.2f} | {ratio:.2f} |")
    return "\n".join(lines)


def whole(checkpoint: str, recordings: list[Path], rows: int, place: Path) -> dict[str, Callable[[], float]]:
    """Files in, files out."""
    model = Spectron.from_checkpoint(checkpoint)
    inputs = [Input(path.stem, path) for path in recordings]
    out = place / "out"

    def ours() -> float:
        shutil.rmtree(out, ignore_errors=True)
        start = time.perf_counter()
        summary = generate(model, inputs, out, Settings({}, 0, rows, HEARD, pictures=False))
        assert summary.made == len(inputs)
        return len(inputs) / (time.perf_counter() - start)

    def alone() -> float:
        shutil.rmtree(out, ignore_errors=True)
        some, start = inputs[::SHARE], time.perf_counter()
        for each in some:
            answer = model.generate(wav.read(each.path, 16_000, HEARD))
            wav.write(out / f"{each.name}.wav", answer.samples, 16_000)
            (out / f"{each.name}.json").write_text(json.dumps({"transcript": answer.transcript}))
        return len(some) / (time.perf_counter() - start)

    return {f"spectron generate, {rows} rows": ours, "one by one": alone}


def writer() -> Spectron:
    """A model that stops as soon as it may."""
    data = DataConfig(max_prompt_seconds=HEARD, max_continuation_seconds=0.5, max_seconds=3.0, max_tokens=LONGEST + 1)
    lm = LMConfig(dim=320, num_layers=6, num_heads=5, num_kv_heads=5, ff_dim=960)
    experiment = Experiment("writer", data, (), model=ModelConfig(lm=lm))
    bands = experiment.features.num_mels

    def init() -> Any:
        some = Sequence(jnp.zeros((1, 8, bands)), jnp.ones((1, 8), bool))
        tokens = Sequence(jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool))
        return make_model(experiment).init(jax.random.key(0), some, tokens, some)["params"]

    params = unbox(jax.jit(init)())
    params["stop"]["bias"] = params["stop"]["bias"] + 1e3
    return Spectron(params, experiment, Statistics(np.full(bands, -6, np.float32), np.full(bands, 3, np.float32)))


def decoding(prompts: list[np.ndarray], texts: list[str], rows: int) -> dict[str, Callable[[], float]]:
    """Text of mixed lengths, decoding alone."""
    model = writer()
    forced = [[*model.vocabulary.encode(text)[:LONGEST], 1] for text in texts]
    limit = limits(model.experiment)
    requests = model.requests(prompts, forced=forced)
    print(f"Model: {sum(x.size for x in jax.tree.leaves(model.params)) / 1e6:.1f} M parameters.", file=sys.stderr)
    sizes = np.array([len(ids) for ids in forced])
    least, middle, most = np.percentile(sizes, (5, 50, 95))
    print(f"Tokens: {middle:.0f} in the middle, {least:.0f} to {most:.0f} in nine of ten.", file=sys.stderr)

    def continuous() -> float:
        start = time.perf_counter()
        for request, out in model.batch(rows).answers(requests):
            assert tuple(out.text[: len(request.forced)]) == request.forced
        return len(prompts) / (time.perf_counter() - start)

    def static() -> float:
        start = time.perf_counter()
        for first in range(0, len(prompts), rows):
            chunk = requests[first : first + rows]
            samples, text = np.zeros((rows, model.prompt_size), np.int16), np.zeros((rows, limit.tokens), np.int32)
            lengths = np.zeros(rows, np.int32)
            for row, request in enumerate(chunk):
                samples[row, : len(request.samples)], lengths[row] = request.samples, len(request.samples)
                text[row, : len(request.forced)] = request.forced
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), np.arange(rows))
            where = {"experiment": model.experiment, "limit": limit}
            jax.device_get(decode(model.weights, model.statistics, samples, lengths, keys, text, **where).text)
        return len(prompts) / (time.perf_counter() - start)

    def alone() -> float:
        start, some = time.perf_counter(), requests[::SHARE]
        for request in some:
            list(model.batch(1).answers([request]))
        return len(some) / (time.perf_counter() - start)

    return {f"continuous, {rows} rows": continuous, f"static, {rows} rows": static, "one by one": alone}


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True, type=Path)
    parser.add_argument("--checkpoint")
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    cores = timing.use_all_cores()
    lines = [json.loads(line) for line in arguments.manifest.read_text().splitlines()][: arguments.items]
    recordings = [arguments.manifest.parent / line["audio"] for line in lines]
    if arguments.checkpoint:
        with tempfile.TemporaryDirectory() as place:
            found = in_turn(whole(arguments.checkpoint, recordings, arguments.rows, Path(place)), arguments.rounds)
        print(f"\n{len(lines)} utterances, files in and files out, {cores} cores:\n\n{table(found, 'one by one')}")
    prompts = [wav.read(path, 16_000, HEARD) for path in recordings]
    found = in_turn(decoding(prompts, [line["text"] for line in lines], arguments.rows), arguments.rounds)
    print(f"\n{len(lines)} transcripts, decoding alone, {cores} cores:\n\n{table(found, 'one by one')}")
    ours, static = (statistics.median(rates) for rates in list(found.values())[:2])
    print(f"\nContinuous over static: {ours / static:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
