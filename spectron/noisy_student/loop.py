"""Noisy student training (arXiv 2005.09629) in one process.

Each generation trains a recogniser; it labels the pool, the labels are filtered, and the next generation trains on the
labelled and the pseudo-labelled speech. `run` is the loop. Every step writes a folder or file atomically and is skipped
if it exists; training resumes from checkpoints and labelling from batches, so a restarted command continues.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spectron.checkpoints.checkpoint import Checkpoint
from spectron.config import BytesConfig, Experiment, SentencePieceConfig, TaskConfig, check_settings
from spectron.config.noisy_student import GenerationConfig, LoopConfig
from spectron.corpora import pipelines, selection
from spectron.corpora.labelling import label
from spectron.corpora.labels import Label, clean_text, labels_path, read_labels
from spectron.data.shards import Shards
from spectron.data.vocabulary import make_pieces, make_vocabulary
from spectron.evaluation.results import read_results
from spectron.noisy_student import measuring
from spectron.recognition import ngram
from spectron.recognition.recogniser import Fusion, load_recogniser, write_recipe
from spectron.training.loop import train
from spectron.types import UserError
from spectron.utils.files import write_bytes
from spectron.utils.text_files import read_objects

log = logging.getLogger(__name__)

BATCH = 8  # ours: utterances labelled together; a killed process loses at most one batch
TICK = 5.0  # ours, seconds: interval at which the wall time is saved
PIECES = "pieces.model"  # SentencePiece model
STAGE = "ctc"  # the stage of a generation's experiment that trains the recogniser


@contextlib.contextmanager
def timed(folder: Path, step: str) -> Iterator[None]:
    """Add the wall time of the block to FOLDER/seconds.json; a killed process loses at most TICK seconds of it."""
    path = folder / "seconds.json"
    done = threading.Event()
    start = time.monotonic()
    earlier = json.loads(path.read_text()) if path.is_file() else {}

    def save() -> None:
        seconds = earlier.get(step, 0.0) + time.monotonic() - start
        write_bytes(path, json.dumps(earlier | {step: round(seconds, 1)}).encode())

    def save_regularly() -> None:
        while not done.wait(TICK):
            save()

    thread = threading.Thread(target=save_regularly, name="spectron-seconds", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        save()


# The data.


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL manifest. Raises UserError if it cannot be read."""
    return [row for _, _, row in read_objects(path)]


def speakers_of(config: LoopConfig) -> dict[str, list[str]]:
    """The speakers of "labelled", "pool" and "dev". Raises UserError if one of them has none."""
    root = Path(config.root)
    split = config.split
    corpus = sorted({str(row.get("speaker", "")) for row in rows_of(root / split.corpus)})
    count = max(1, round(split.labelled_share * len(corpus)))
    labelled = sorted(np.random.default_rng(split.seed).permutation(corpus)[:count].tolist())
    if split.pool:
        pool = sorted({str(row.get("speaker", "")) for row in rows_of(root / split.pool)})
    else:
        pool = [speaker for speaker in corpus if speaker not in labelled]
    held_out = {str(row.get("speaker", "")) for row in rows_of(root / split.held_out)}
    speakers = {"labelled": labelled, "pool": pool, "dev": sorted(held_out - {*corpus, *pool})}
    for name, names in speakers.items():
        if not names:
            raise UserError(f"split: no speaker is left for {name!r}; change its manifests, labelled_share or seed.")
    return speakers


def prepare(config: LoopConfig, workdir: Path) -> None:
    """Write the shards data/labelled, data/pool (without texts) and data/dev, speakers.json, and the language model."""
    experiment = config.generations[0].experiment
    split = config.split
    data = dataclasses.replace(experiment.data, vocabulary=BytesConfig())  # there are no pieces yet
    speakers = speakers_of(config)
    manifests = {"labelled": split.corpus, "pool": split.pool or split.corpus, "dev": split.held_out}
    for name, manifest in manifests.items():
        pipelines.from_task(
            TaskConfig(name, "manifest", root=str(Path(config.root) / manifest)),
            data,
            experiment.features,
            workdir / "data" / name,
            keep_text=name != "pool",
            speakers=speakers[name],
            options=("--runner", "inline"),
        )
    write_bytes(workdir / "data" / "speakers.json", json.dumps(speakers, indent=1).encode())
    if config.pieces and not (workdir / PIECES).is_file():
        labelled = (utterance.text for utterance in iterate(workdir / "data" / "labelled"))
        write_bytes(workdir / PIECES, make_pieces(labelled, config.pieces))
    target = workdir / "lm.arpa"
    if config.language_model.texts and not target.is_file():
        texts = ngram.read_texts(config.language_model, config.root)
        write_bytes(target, ngram.estimate(texts, config.language_model.order, config.language_model.min_count).arpa())


def truths(config: LoopConfig) -> dict[str, str]:
    """Utterance id → true transcript of the pool, used only to measure the labels."""
    path = Path(config.root) / (config.split.pool or config.split.corpus)
    return {str(row["id"]): clean_text(str(row["text"])) for row in rows_of(path)}


# One generation.


def placed(generation: GenerationConfig, workdir: Path, previous: Path | None) -> Experiment:
    """The generation's experiment with the paths of its tasks, start and vocabulary set to the work folder."""
    roots = {"labelled": workdir / "data" / "labelled", "pseudo": workdir / generation.name / "pseudo"}
    experiment = generation.experiment
    tasks = tuple(
        dataclasses.replace(task, root=str(roots[task.name])) if task.name in roots else task
        for task in experiment.data.tasks
    )
    if generation.start_from_previous and previous is not None:
        parts = tuple((part, str(previous / "training" / STAGE)) for part in ("encoder", "ctc_head"))
        stages = tuple(
            dataclasses.replace(stage, start_from=parts) if stage.name == STAGE else stage
            for stage in experiment.stages
        )
        experiment = dataclasses.replace(experiment, stages=stages)
    vocabulary = experiment.data.vocabulary
    if (workdir / PIECES).is_file():
        vocabulary = SentencePieceConfig(path=str(workdir / PIECES))
    return dataclasses.replace(
        experiment, data=dataclasses.replace(experiment.data, tasks=tasks, vocabulary=vocabulary)
    )


def make_labels(config: LoopConfig, generation: GenerationConfig, workdir: Path, teacher: Path) -> None:
    """Label the pool with the teacher, fit the label filter on held-out speech, and write the shards "pseudo"."""
    folder = workdir / generation.name
    pool = workdir / "data" / "pool"
    with timed(folder, "label"):
        factory = functools.partial(load_recogniser, str(teacher))
        label(pool, folder / "labels", factory, str(teacher), BATCH, ("--runner", "inline"))
        label(workdir / "data" / "dev", folder / "labels_dev", factory, str(teacher), BATCH, ("--runner", "inline"))
    labels = read_all(folder / "labels", pool)
    if not (folder / "selection.json").is_file():
        fitted = selection.fit(read_all(folder / "labels_dev", workdir / "data" / "dev"), generation.selection)
        if not generation.teacher:  # a foreign teacher counts lengths in other tokens
            vocabulary = make_vocabulary(placed(generation, workdir, None).data.vocabulary)
            targets = [len(vocabulary.encode(u.text)) for u in iterate(workdir / "data" / "labelled")]
            fitted = selection.balance(fitted, labels, targets, generation.selection)
        write_bytes(folder / "selection.json", fitted.to_json().encode())
    chosen = selection.load(folder / "selection.json")
    pipelines.write(pool, folder / "pseudo", folder / "labels", chosen, options=("--runner", "inline"))
    if not (folder / "labels.json").is_file():
        quality = measuring.label_quality(labels, chosen, truths(config))
        write_bytes(folder / "labels.json", json.dumps(quality, indent=1).encode())


def iterate(folder: Path) -> Iterator[Any]:
    """The utterances of a folder of shards."""
    shards = Shards(folder)
    return (shards[i] for i in range(len(shards)))


def read_all(folder: Path, shards: Path) -> list[Label]:
    """The labels of all shards of a folder, in order."""
    count = len(Shards(shards).paths)
    return [label for number in range(count) for label in read_labels(labels_path(folder, number))]


def finish(config: LoopConfig, generation: GenerationConfig, workdir: Path) -> None:
    """Tune the fusion weights of a trained generation and measure it on held-out speech.

    Writes recogniser.json and dev/.
    """
    folder = workdir / generation.name
    checkpoint = Checkpoint.open(folder / "training" / STAGE).folder
    if (folder / "dev" / "results.json").is_file():
        return
    with timed(folder, "evaluate"):
        utterances = list(iterate(workdir / "data" / "dev"))
        lm = workdir / "lm.arpa"
        speech = measuring.hear(checkpoint, utterances)
        fusion = measuring.tune(speech, config.beam, lm) if lm.is_file() else Fusion()
        write_recipe(folder, checkpoint, fusion)
        title = f"{config.name}, {generation.name}"
        measuring.report(speech, fusion, folder / "dev", title, config.beam.tuning_utterances)


# The whole loop.


def run(config: LoopConfig, workdir: str | Path) -> dict[str, Any] | None:
    """Run all generations in WORKDIR/NAME; returns the content of results.json. Raises UserError.

    Returns None if training was interrupted by a signal.
    """
    workdir = Path(workdir).absolute()
    check(config)
    with timed(workdir, "prepare"):
        prepare(config, workdir)
    previous: Path | None = None
    results: dict[str, Any] | None = None
    for generation in config.generations:
        folder = workdir / generation.name
        teacher = Path(generation.teacher) if generation.teacher else previous
        if teacher is not None:
            make_labels(config, generation, workdir, teacher)
        with timed(folder, "train"):
            if not train(placed(generation, workdir, previous), folder / "training"):
                return None
        finish(config, generation, workdir)
        previous = folder
        results = summary(config, workdir)
        write_bytes(workdir / "results.json", json.dumps(results, indent=1).encode())
        write_bytes(workdir / "results.md", markdown(results).encode())
    return results


def check(config: LoopConfig) -> None:
    """Raise UserError for a loop that cannot run: impossible settings, or missing stages or tasks."""
    check_settings(config)
    for number, generation in enumerate(config.generations):
        generation.experiment.stage(STAGE)
        tasks = {task.name for task in generation.experiment.data.tasks}
        required = {"labelled", "pseudo"} if number or generation.teacher else {"labelled"}
        for task in sorted(required - tasks):
            raise UserError(f"generations.{generation.name}: data.tasks has no {task!r}; add TaskConfig({task!r}, …).")


def summary(config: LoopConfig, workdir: Path) -> dict[str, Any]:
    """Results of the finished generations."""
    rows = []
    for generation in config.generations:
        folder = workdir / generation.name
        if not (folder / "dev" / "results.json").is_file():
            continue
        row: dict[str, Any] = {"generation": generation.name}
        rates = read_results(folder / "dev").tables[0].rows  # way of decoding → {"WER": figure}
        row["dev"] = {way: dataclasses.asdict(figures["WER"]) for way, figures in rates.items()}
        row["labels"] = json.loads((folder / "labels.json").read_text()) if (folder / "labels.json").is_file() else None
        row["seconds"] = json.loads((folder / "seconds.json").read_text())
        rows.append(row)
    speakers = json.loads((workdir / "data" / "speakers.json").read_text())
    hour = 3600 * config.generations[0].experiment.features.sample_rate
    hours = {name: round(float(Shards(workdir / "data" / name).lengths.sum()) / hour, 2) for name in speakers}
    prepared = json.loads((workdir / "seconds.json").read_text())
    return {"name": config.name, "speakers": speakers, "hours": hours, "generations": rows, "seconds": prepared}


def markdown(results: dict[str, Any]) -> str:
    """The summary as a table."""

    def wer(figure: dict[str, Any] | None) -> str:
        if figure is None or math.isnan(figure["value"]):
            return "–"
        return f"{100 * figure['value']:.1f} ({100 * figure['low']:.1f}–{100 * figure['high']:.1f})"

    lines = [
        "| generation | dev WER %, greedy (95 %) | with LM | labels' WER % | kept | rejected | hours kept | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results["generations"]:
        labels = row["labels"] or {}
        cells = [row["generation"], wer(row["dev"].get("greedy")), wer(row["dev"].get("fused"))]
        cells += [wer(labels.get(name)) for name in ("all", "kept", "rejected")]
        cells += [f"{labels['hours_kept']:.2f} of {labels['hours']:.2f}" if labels else "–"]
        cells += [f"{sum(row['seconds'].values()) / 60:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
