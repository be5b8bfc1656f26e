"""The command line: `spectron train | compile | generate | evaluate | data`.

Exit codes: 0 done, 2 the user can mend it (one sentence on stderr), 3 some inputs of several were bad and the others
are done (ours), 4 other processes of the job are gone (ours), 130 interrupted. Everything heavy is imported by the
command that needs it, so --help is instant.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from spectron.config import Experiment
    from spectron.types import Answer

MIN_PROMPT_SECONDS = 0.3  # ours: less holds no word
SOME_BAD = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = parser().parse_args(argv)
    from spectron.types import UserError

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("absl", "jax", "orbax", "matplotlib", "numba"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return arguments.run(arguments)
    except UserError as error:
        print(f"spectron: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("spectron: interrupted.", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    top = argparse.ArgumentParser(prog="spectron", description="A language model that listens and speaks.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_compile(commands)
    _add_generate(commands)
    _add_evaluate(commands)
    _add_data(commands)
    return top


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train a config's stages; goes on by itself from the newest checkpoint")
    train.add_argument("config", metavar="CONFIG.py")
    train.add_argument("--workdir", required=True, metavar="DIR", help="checkpoints and logs, one folder per stage")
    train.add_argument(
        "--distributed",
        action="store_true",
        help="look for the job's other processes even where the environment names none (TPU VMs)",
    )
    train.add_argument("--stage", action="append", metavar="NAME", help="only this stage (repeatable)")
    _add_set(train)
    train.set_defaults(run=_train)


def _add_compile(commands: Any) -> None:
    compiler = commands.add_parser(
        "compile", help="compile a training step for a TPU that is not there: fit, FLOPs, collectives"
    )
    compiler.add_argument("config", metavar="CONFIG.py")
    compiler.add_argument("--topology", required=True, metavar="NAME", help="v5e:4x4, v5p:4x4x8, v4:4x4x4, v6e:8x8, …")
    compiler.add_argument("--slices", type=_positive, default=1, metavar="N", help="of that topology (default 1)")
    compiler.add_argument(
        "--mesh", default="", metavar="AXIS=N,…", help="replica, data, fsdp, tensor (default: config)"
    )
    compiler.add_argument("--stage", metavar="NAME", help="default: the last")
    compiler.add_argument("--find-batch", action="store_true", help="the largest batch that fits")
    compiler.add_argument("--json", metavar="FILE", help="write the report there too")
    _add_set(compiler)
    compiler.set_defaults(run=_compile)


def _add_generate(commands: Any) -> None:
    generate = commands.add_parser("generate", help="continue recordings: STEM.wav, STEM.png and STEM.json for each")
    generate.add_argument("audio", nargs="+", metavar="AUDIO", help="prompts: WAV, FLAC, Ogg or MP3, any rate")
    generate.add_argument("--checkpoint", required=True, metavar="DIR", help="a work folder, a stage's or a step's")
    generate.add_argument("--out", required=True, metavar="DIR")
    generate.add_argument("--seed", type=int, default=0, help="of the randomness in decoding (default 0)")
    generate.add_argument("--batch-size", type=_positive, default=8, metavar="N", help="prompts decoded together")
    generate.set_defaults(run=_generate)


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser("evaluate", help="measure a checkpoint: results.json and report.html")
    suites = evaluate.add_subparsers(dest="suite", required=True, metavar="SUITE")
    counting = suites.add_parser("counting", help="six digits, three heard and three to come")
    counting.add_argument("--checkpoint", required=True, metavar="DIR", help="a work folder, a stage's or a step's")
    counting.add_argument("--out", required=True, metavar="DIR")
    counting.add_argument("--judges", metavar="DIR", help="where the judges are kept (default OUT/judges)")
    counting.add_argument("--seeds", type=_positive, default=3, metavar="N", help="decoding seeds (default 3)")
    counting.add_argument("--repeats", type=_positive, default=2, metavar="N", help="takes per speaker and sequence")
    counting.add_argument("--batch-size", type=_positive, default=8, metavar="N", help="prompts decoded together")
    counting.add_argument("--limit", type=int, default=0, metavar="N", help="only N items, for a quick look")
    _add_set(counting)
    counting.set_defaults(run=_evaluate_counting)


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="prepare and look at data")
    kinds = data.add_subparsers(dest="kind", required=True, metavar="KIND")
    pack = kinds.add_parser("pack", help="write tasks to files that `train` reads with numpy alone")
    pack.add_argument("tasks", nargs="+", metavar="TASK")
    pack.add_argument("--out", required=True, metavar="DIR", help="what data.packed will name")
    pack.set_defaults(run=_pack)
    listing = kinds.add_parser("list", help="tasks and mixtures of a config, with their sizes")
    listing.set_defaults(run=_list)
    inspect = kinds.add_parser("inspect", help="some examples of a task, as text and as WAV files")
    inspect.add_argument("task", metavar="TASK")
    inspect.add_argument("--count", type=_positive, default=5, metavar="N")
    inspect.add_argument("--out", metavar="DIR", help="write the examples there as WAV files")
    inspect.set_defaults(run=_inspect)
    for kind in (pack, listing, inspect):
        kind.add_argument("--config", required=True, metavar="CONFIG.py")
        _add_set(kind)


def _add_set(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override a setting: data.root=DIR"
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _experiment(arguments: argparse.Namespace, path: str) -> Experiment:
    from spectron.config import load_experiment

    return load_experiment(path, arguments.set)


def _train(arguments: argparse.Namespace) -> int:
    experiment = _experiment(arguments, arguments.config)
    for name in arguments.stage or ():
        experiment.stage(name)
    from spectron import distributed
    from spectron.train import train
    from spectron.types import UserError

    distributed.connect(arguments.distributed)
    try:
        with distributed.watching():
            train(experiment, arguments.workdir, arguments.stage)
    except UserError as error:
        print(f"spectron: {error}", file=sys.stderr)
        return distributed.leave(2)
    return 0


def _compile(arguments: argparse.Namespace) -> int:
    from spectron import compile as ahead

    ahead.prepare()  # before anything looks for devices
    experiment = _experiment(arguments, arguments.config)
    print(
        ahead.command(
            experiment,
            arguments.stage or experiment.stages[-1].name,
            arguments.topology,
            arguments.slices,
            arguments.mesh,
            find_batch=arguments.find_batch,
            json_file=arguments.json,
        )
    )
    return 0


def _evaluate_counting(arguments: argparse.Namespace) -> int:
    from spectron.evaluation.counting import evaluate_counting, markdown

    results = evaluate_counting(
        arguments.checkpoint,
        arguments.out,
        arguments.judges,
        seeds=arguments.seeds,
        repeats=arguments.repeats,
        batch_size=arguments.batch_size,
        overrides=arguments.set,
        limit=arguments.limit,
    )
    print(markdown(results))
    print(f"\nReport: {Path(arguments.out) / 'report.html'}")
    return 0


def _generate(arguments: argparse.Namespace) -> int:
    from spectron.checkpoints import experiment_of, find, read_meta
    from spectron.evaluation import pictures
    from spectron.types import UserError

    paths = [Path(name) for name in arguments.audio]
    check_stems(paths)
    pictures.check()
    checkpoint = find(arguments.checkpoint)
    experiment = experiment_of(checkpoint, read_meta(checkpoint))
    prompts: dict[Path, np.ndarray] = {}
    problems = []
    for path in paths:
        try:
            prompts[path] = read_prompt(path, experiment)
        except UserError as error:
            problems.append(error)
    if problems and not prompts:
        raise UserError(" ".join(map(str, problems)))
    for problem in problems:
        print(f"spectron: {problem}", file=sys.stderr)
    from spectron.decode import Generator

    generator = Generator.from_checkpoint(checkpoint)
    answers = generator.generate(list(prompts.values()), seed=arguments.seed, batch_size=arguments.batch_size)
    for (path, prompt), answer in zip(prompts.items(), answers, strict=True):
        facts = {"audio": str(path), "checkpoint": str(checkpoint), "seed": arguments.seed}
        write_answer(Path(arguments.out), path.stem, prompt, answer, experiment, facts)
        print(f"{Path(arguments.out) / path.stem}.wav: {answer.transcript}")
    return SOME_BAD if problems else 0


def check_stems(paths: Sequence[Path]) -> None:
    """Raise UserError when two inputs would be written under one name."""
    from spectron.types import UserError

    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem in seen:
            raise UserError(
                f"Inputs {str(seen[path.stem])!r} and {str(path)!r} would both be written as {path.stem!r}; "
                f"rename one or run them into two folders."
            )
        seen[path.stem] = path


def read_prompt(path: Path, experiment: Experiment) -> np.ndarray:
    """int16 [S]: a recording as a prompt the model can take. Raises UserError otherwise."""
    from spectron.audio import wav

    samples = wav.read(path, experiment.features.sample_rate)
    wav.check_prompt(samples, str(path), experiment.features, MIN_PROMPT_SECONDS, experiment.data.max_prompt_seconds)
    return samples


def write_answer(
    out: Path, stem: str, prompt: np.ndarray, answer: Answer, experiment: Experiment, facts: dict[str, Any]
) -> None:
    """STEM.wav (the continuation), STEM.png and, last, STEM.json: each whole or not at all."""
    from spectron.audio import wav
    from spectron.evaluation.files import write_bytes
    from spectron.evaluation.pictures import spectrograms
    from spectron.evaluation.spectra import log_mels

    rate = experiment.features.sample_rate
    wav.write(out / f"{stem}.wav", answer.samples, rate)
    heard = log_mels([prompt], experiment.features)[0]
    write_bytes(
        out / f"{stem}.png", spectrograms([("prompt | answer", heard, answer.frames)], experiment.features, dpi=120)
    )
    record = {
        "transcript": answer.transcript,
        "frames": len(answer.frames),
        "seconds": len(answer.samples) / rate,
        "stopped_by": answer.stopped_by,
        "prompt_seconds": len(prompt) / rate,
        "sample_rate": rate,
        **facts,
    }
    write_bytes(out / f"{stem}.json", (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


def _pack(arguments: argparse.Namespace) -> int:
    from spectron.data.packed import pack

    experiment = _experiment(arguments, arguments.config)
    for task in arguments.tasks:
        report = pack(experiment, task, arguments.out)
        for line in report.left_out:
            print(f"left out: {line}", file=sys.stderr)
        print(f"{report.folder}: {report.examples} examples, {report.seconds / 60:.1f} minutes")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from spectron.data.batches import source_of
    from spectron.types import UserError

    experiment = _experiment(arguments, arguments.config)
    for task in experiment.data.tasks:
        try:
            size = f"{len(source_of(experiment, task.name))} examples"
        except UserError as error:
            size = f"not readable: {error}"
        print(f"task     {task.name}: {task.source}, {task.split}, {size}")
    for mixture in experiment.data.mixtures:
        print(f"mixture  {mixture.name}: " + ", ".join(f"{name} × {rate:g}" for name, rate in mixture.rates))
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from spectron.audio import wav
    from spectron.data.batches import source_of
    from spectron.data.sources import BadExample

    experiment = _experiment(arguments, arguments.config)
    source = source_of(experiment, arguments.task)
    rate = experiment.features.sample_rate
    for i in range(min(arguments.count, len(source))):
        try:
            example = source[i]
        except BadExample as error:
            print(f"{i}: unusable: {error}")
            continue
        seconds, prompt = len(example.samples) / rate, example.prompt_samples / rate
        print(f"{i}: {example.id} | {example.speaker} | {seconds:.2f} s, prompt {prompt:.2f} s | {example.text}")
        if arguments.out and len(example.samples):
            wav.write(Path(arguments.out) / f"{arguments.task}-{i}.wav", example.samples, rate)
    return 0
