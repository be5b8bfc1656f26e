"""Batch inference on real utterances: continuous batches, static batches, and one recording at a time.

    python tests/benchmarks/generate.py --manifest FILE [--checkpoint DIR …] [--items N] [--rows N] [--rounds N]

FILE: "audio" and "text" on every line (a manifest of LibriSpeech). Tables of medians of the rounds, contenders in turn:

- files in and files out by `spectron generate` (no pictures), against a loop over Spectron.generate that writes the
  same files: with each --checkpoint, and with a model of 26 M random parameters;
- decoding alone, of that model, which is forced to write each utterance's own transcript letter by letter (real, mixed
  lengths) and then stops: continuous batching, static batches in the order of the manifest, one by one.

"One by one" takes every tenth utterance.
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
from spectron.inference.api import Spectron  # noqa: E402
from spectron.inference.batch_job import JobSettings, generate  # noqa: E402
from spectron.inference.decode import FREE, decode  # noqa: E402
from spectron.inference.engine import Request  # noqa: E402
from spectron.inference.inputs import Input  # noqa: E402
from spectron.models.encoder import unit_statistics  # noqa: E402
from spectron.objectives.joint import make_model  # noqa: E402
from spectron.parallel.sharding import unbox  # noqa: E402
from spectron.types import Sequence, Statistics  # noqa: E402

SHARE = 10  # "one by one" takes every 10th utterance
WARM = 8  # utterances before timing begins
PROMPT_SECONDS = 2.0
ALONE = "one by one"
Contender = Callable[[list[Any]], None]  # answers a list of inputs or requests


def in_turn(contenders: dict[str, Contender], each: list[Any], rounds: int) -> dict[str, list[float]]:
    """Utterances a second of each contender in each round, after a warm-up."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call(each[:WARM])
    for _ in range(rounds):
        for name, call in contenders.items():
            some, start = each[::SHARE] if name == ALONE else each, time.perf_counter()
            call(some)
            found[name].append(len(some) / (time.perf_counter() - start))
            print(f"{name}: {found[name][-1]:.2f} utterances a second", file=sys.stderr)
    return found


def table(found: dict[str, list[float]], base: str) -> str:
    """Markdown: medians, and how many times `base` they are."""
    lines = ["| | utterances a second, median | min–max | ratio |", "|---|---:|---|---:|"]
    for name, rates in found.items():
        ratio = statistics.median(rates) / statistics.median(found[base])
        lines.append(f"| {name} | {statistics.median(rates):.2f} | {min(rates):.2f}–{max(rates):.2f} | {ratio:.2f} |")
    return "\n".join(lines)


def whole(model: Spectron, rows: int, out: Path) -> dict[str, Contender]:
    """Files in, files out."""

    def ours(inputs: list[Input]) -> None:
        shutil.rmtree(out, ignore_errors=True)
        settings = JobSettings(facts={}, batch_size=rows, prompt_seconds=PROMPT_SECONDS, pictures=False)
        summary = generate(model, inputs, out, settings)
        assert summary.made == len(inputs)

    def alone(inputs: list[Input]) -> None:
        shutil.rmtree(out, ignore_errors=True)
        for each in inputs:
            answer = model.generate(wav.read(each.path, 16_000, PROMPT_SECONDS))
            wav.write(out / f"{each.name}.wav", answer.samples, 16_000)
            (out / f"{each.name}.json").write_text(json.dumps({"transcript": answer.transcript}))

    return {f"spectron generate, {rows} rows": ours, ALONE: alone}


def writer(longest: int) -> Spectron:
    """A random model that writes at most so many letters and speaks a single frame step."""
    data = DataConfig(
        max_prompt_seconds=PROMPT_SECONDS, max_continuation_seconds=0.5, max_seconds=3.0, max_tokens=longest + 1
    )
    lm = LMConfig(dim=512, num_layers=8, num_heads=8, ff_dim=1536)
    experiment = Experiment("writer", data, (), model=ModelConfig(lm=lm))
    bands = experiment.features.num_mels

    def init() -> Any:
        samples, lengths = jnp.zeros((1, 1600), jnp.int16), jnp.asarray([1600])
        tokens = Sequence(jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool))
        frames = Sequence(jnp.zeros((1, 8, bands)), jnp.ones((1, 8), bool))
        statistics = unit_statistics(experiment)
        return make_model(experiment).init(jax.random.key(0), samples, lengths, statistics, tokens, frames)["params"]

    params = unbox(jax.jit(init)())
    params["stop"]["bias"] = params["stop"]["bias"] + 1e3
    return Spectron(params, experiment, Statistics(np.full(bands, -6, np.float32), np.full(bands, 3, np.float32)))


def decoding(model: Spectron, rows: int) -> dict[str, Contender]:
    """Decoding alone, of forced texts."""
    config = model.decode_config

    def continuous(requests: list[Request]) -> None:
        for request, out in model.engine(rows).answers(requests):
            assert tuple(out.text[: len(request.forced)]) == request.forced

    def static(requests: list[Request]) -> None:
        for first in range(0, len(requests), rows):
            samples, lengths = np.zeros((rows, model.prompt_size), np.int16), np.zeros(rows, np.int32)
            text = np.full((rows, config.text_tokens), FREE, np.int32)
            for row, request in enumerate(requests[first : first + rows]):
                samples[row, : len(request.samples)], lengths[row] = request.samples, len(request.samples)
                text[row, : len(request.forced)] = request.forced
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), np.arange(rows))
            out = decode(model.weights, model.statistics, samples, lengths, keys, text, config=config)
            jax.device_get(out.text)

    def alone(requests: list[Request]) -> None:
        for request in requests:
            list(model.engine(1).answers([request]))

    return {f"continuous, {rows} rows": continuous, f"static, {rows} rows": static, ALONE: alone}


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True, type=Path)
    parser.add_argument("--checkpoint", action="append", default=[])
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    cores = timing.use_all_cores()
    lines = [json.loads(line) for line in arguments.manifest.read_text().splitlines()][: arguments.items]
    recordings = [arguments.manifest.parent / line["audio"] for line in lines]
    texts = [line["text"] for line in lines]
    random = writer(max(map(len, texts)))
    size = sum(x.size for x in jax.tree.leaves(random.params)) / 1e6
    inputs = [Input(path.stem, path) for path in recordings]
    with tempfile.TemporaryDirectory() as place:
        for name in (*arguments.checkpoint, ""):
            model = Spectron.from_checkpoint(name) if name else random
            found = in_turn(whole(model, arguments.rows, Path(place) / "out"), inputs, arguments.rounds)
            said = f"{name or f'{size:.1f} M random weights'}: {len(lines)} utterances, files in and files out"
            print(f"\n{said}, {cores} cores:\n\n{table(found, ALONE)}", flush=True)
    prompts = [wav.read(path, 16_000, PROMPT_SECONDS) for path in recordings]
    forced = [[*random.vocabulary.encode(text), 1] for text in texts]
    found = in_turn(decoding(random, arguments.rows), random.requests(prompts, forced=forced), arguments.rounds)
    least, middle, most = np.percentile([len(ids) for ids in forced], (5, 50, 95))
    said = f"{middle:.0f} letters in the middle, {least:.0f} to {most:.0f} in nine of ten"
    print(f"\n{len(lines)} transcripts, {said}, decoding alone, {cores} cores:\n\n{table(found, ALONE)}")
    ours, static = (statistics.median(rates) for rates in list(found.values())[:2])
    print(f"\nContinuous over static: {ours / static:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
