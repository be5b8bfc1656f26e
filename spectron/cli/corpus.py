"""`spectron data cut | convert | label | fit-filter | write | report`: corpora on Beam, restartable by shard."""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import Any

from spectron.cli.flags import add_recogniser, add_set, check_out_file, load_config, positive
from spectron.utils.files import check_out

_BEAM = (
    "Other flags go to Beam: --runner DirectRunner (default; N processes with --direct_num_workers=N "
    "--direct_running_mode=multi_processing), DataflowRunner, SparkRunner or FlinkRunner with their flags. --runner "
    "inline runs in this process, without Beam. Every worker must see the folders under the same paths. A restarted "
    "command makes only the missing shards."
)


def add_corpus(kinds: Any) -> None:
    """Add the commands that make corpora."""
    cut = _pipeline(kinds, "cut", "cut Libri-Light's chapters into shards of utterances", _cut)
    cut.add_argument("root", metavar="ROOT", help="the folder that contains small/, medium/, large/ or duplicate/")
    cut.add_argument("--out", required=True, metavar="DIR")
    cut.add_argument("--split", default="all", help="all (default), train, dev or test (no shared speakers or books)")
    cut.add_argument("--libriheavy", metavar="CUTS.jsonl.gz", help="take the cuts and texts of this manifest")
    cut.add_argument("--texts", default="book", help="Libriheavy's texts: book (cased, punctuated; default) or asr")
    add_set(cut)
    convert = _pipeline(kinds, "convert", "write a task of a config as shards", _convert)
    convert.add_argument("task", metavar="TASK")
    convert.add_argument("--config", required=True, metavar="CONFIG.py")
    convert.add_argument("--out", required=True, metavar="DIR")
    convert.add_argument("--drop-text", action="store_true", help="write no texts")
    convert.add_argument("--speakers", metavar="FILE", help="take only these speakers, one name per line")
    convert.add_argument("--per-shard", type=positive, default=1000, metavar="N", help="recordings (default 1000)")
    add_set(convert)
    label = _pipeline(kinds, "label", "transcribe the utterances of shards with a recogniser", _label)
    label.add_argument("shards", metavar="SHARDS", help="output of cut or convert")
    add_recogniser(label)
    label.add_argument("--out", required=True, metavar="DIR")
    label.add_argument("--batch-size", type=positive, default=16, metavar="N", help="utterances per batch (default 16)")
    write = _pipeline(kinds, "write", "join shards and labels, filter them, and write shards for training", _write)
    write.add_argument("shards", metavar="SHARDS")
    write.add_argument("--labels", metavar="DIR", help="output of label; default: the shards' own texts")
    write.add_argument("--selection", metavar="FILE.json", help="output of fit-filter; default: keep every text")
    write.add_argument("--out", required=True, metavar="DIR")
    fit = kinds.add_parser("fit-filter", help="fit the label filter of write --selection on held-out speech")
    fit.add_argument("labels", metavar="LABELS", help="labels of held-out speech, output of label")
    fit.add_argument("--out", required=True, metavar="FILE.json")
    fit.add_argument(
        "--keep", type=float, default=0.7, metavar="X", help="share of these labels that passes (default 0.7)"
    )
    fit.set_defaults(run=_fit_filter)
    report = kinds.add_parser("report", help="report hours, speakers, lengths, scores and what was left out of shards")
    report.add_argument("shards", metavar="SHARDS")
    report.add_argument("--out", metavar="DIR", help="default: the folder of the shards")
    report.set_defaults(run=_report)


def _pipeline(kinds: Any, name: str, purpose: str, run: Any) -> argparse.ArgumentParser:
    # With allow_abbrev, argparse would take Beam's --run… and --out… for abbreviations of our flags.
    command = kinds.add_parser(name, help=purpose, description=f"{purpose}.", epilog=_BEAM, allow_abbrev=False)
    command.set_defaults(run=run, pipeline_options=[])
    return command


def _cut(arguments: argparse.Namespace) -> int:
    check_out(arguments.out)
    from spectron.config import override
    from spectron.corpora import libriheavy, pipelines

    config = override(pipelines.CorpusConfig(), arguments.set)
    options = arguments.pipeline_options
    if arguments.libriheavy:
        report = libriheavy.cut_libriheavy(
            arguments.libriheavy, arguments.root, arguments.out, config.cutting, arguments.texts, options=options
        )
    else:
        report = pipelines.cut(arguments.root, arguments.out, config, arguments.split, options)
    return _print_report(report, arguments.out)


def _convert(arguments: argparse.Namespace) -> int:
    check_out(arguments.out)
    from spectron.corpora import pipelines
    from spectron.types import UserError
    from spectron.utils.text_files import read_text

    experiment = load_config(arguments, arguments.config)
    task = next((t for t in experiment.data.tasks if t.name == arguments.task), None)
    if task is None:
        known = ", ".join(t.name for t in experiment.data.tasks)
        raise UserError(f"data.tasks has no task {arguments.task!r}; use one of: {known}.")
    speakers = None
    if arguments.speakers:
        speakers = set(read_text(arguments.speakers).split())
    report = pipelines.from_task(
        task,
        experiment.data,
        experiment.features,
        arguments.out,
        keep_text=not arguments.drop_text,
        speakers=speakers,
        per_shard=arguments.per_shard,
        options=arguments.pipeline_options,
    )
    return _print_report(report, arguments.out)


def _label(arguments: argparse.Namespace) -> int:
    check_out(arguments.out)
    from spectron.corpora.labelling import label
    from spectron.recognition.recogniser import load_recogniser, resolve_recogniser

    path = resolve_recogniser(arguments.recogniser)
    factory = functools.partial(load_recogniser, path)
    label(arguments.shards, arguments.out, factory, path, arguments.batch_size, arguments.pipeline_options)
    print(f"{arguments.out}: labelled by {path}")
    return 0


def _write(arguments: argparse.Namespace) -> int:
    check_out(arguments.out)
    from spectron.corpora import pipelines
    from spectron.corpora.selection import load

    selection = load(arguments.selection) if arguments.selection else None
    report = pipelines.write(
        arguments.shards, arguments.out, arguments.labels, selection, options=arguments.pipeline_options
    )
    return _print_report(report, arguments.out)


def _report(arguments: argparse.Namespace) -> int:
    check_out(arguments.shards if arguments.out is None else arguments.out)
    from spectron.corpora.report import write_report

    return _print_report(write_report(arguments.shards, out=arguments.out), arguments.out or arguments.shards)


def _print_report(report: dict[str, Any], out: str) -> int:
    print(f"{out}: {report['utterances']} utterances, {report['hours']:.2f} hours, {report['speakers']} speakers")
    for reason, group in report["rejected"].items():
        print(f"left out: {group['count']} {reason}, the first: {json.dumps(group['first'][0], ensure_ascii=False)}")
    print(f"Report: {Path(out) / 'report.html'}")
    return 0


def _fit_filter(arguments: argparse.Namespace) -> int:
    check_out_file(arguments.out)
    from spectron.config.noisy_student import SelectionConfig
    from spectron.corpora import selection
    from spectron.corpora.labels import read_labels
    from spectron.types import UserError
    from spectron.utils.files import write_bytes

    paths = sorted(Path(arguments.labels).glob("shard-*.jsonl"))
    if not paths:
        raise UserError(f"{arguments.labels!r} contains no labels; give the output of `spectron data label`.")
    if not 0 < arguments.keep <= 1:
        raise UserError(f"--keep {arguments.keep} is out of range; give a share above 0 and at most 1.")
    labels = [label for path in paths for label in read_labels(path)]
    fitted = selection.fit(labels, SelectionConfig(keep=arguments.keep))
    write_bytes(Path(arguments.out), fitted.to_json().encode())
    print(
        f"{arguments.out}: mu {fitted.mu:.4g}, beta {fitted.beta:.4g}, sigma {fitted.sigma:.4g}, "
        f"threshold {fitted.threshold:.4g}"
    )
    return 0
