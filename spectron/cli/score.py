"""`spectron score`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectron.cli.flags import LM, add_out, print_results

if TYPE_CHECKING:
    from spectron.evaluation.score.metrics import Metric
    from spectron.types import Recogniser

_DATA = (
    "Recordings and texts that belong together come from a manifest (one JSON object per line with the roles below and "
    "optionally id, paths relative to its folder; --field says which key holds a role, --where picks lines), or from "
    "folders with equal stems (one --folder for each role). Roles: {}. If interrupted, the same command resumes "
    "with the items that are missing."
)

PAIR, SAID = "audio, reference", "transcript, or audio with --recogniser"


def add_score(commands: Any) -> None:
    """Flags of `spectron score`."""
    score = commands.add_parser("score", help="measure audio and texts that any system made; no model needed")
    metrics = score.add_subparsers(dest="metric", required=True, metavar="METRIC")
    _metric(
        metrics,
        "speaker-similarity",
        "is the continuation the prompt's voice, and does it stay so",
        _voices,
        "prompt, continuation",
    )
    _metric(metrics, "dnsmos", "how good recordings sound, by DNSMOS", _dnsmos, "audio")
    _metric(metrics, "pesq", "how good recordings sound against their references, wide-band PESQ", _pesq, PAIR)
    _metric(metrics, "stoi", "how intelligible recordings are against their references", _stoi, PAIR)
    _recogniser(_metric(metrics, "wer", "word error rate of what is said against a text", _wer, f"text, {SAID}"))
    perplexity = _metric(
        metrics, "perplexity", "log-perplexity of what is said under a language model", _perplexity, SAID
    )
    perplexity.add_argument(
        "--lm",
        required=True,
        metavar="DIR",
        help=LM,
    )
    perplexity.add_argument("--keep-case", action="store_true", help="of the texts; without it they are lower-cased")
    _recogniser(perplexity)
    _recogniser(
        _metric(
            metrics, "qa", "right answers to questions, by three scorers", _qa, f"answers (a text or several), {SAID}"
        )
    )
    table = metrics.add_parser("table", help="results of several systems in one table")
    table.add_argument("results", nargs="+", metavar="DIR", help="what --out named, once for each system")
    table.set_defaults(run=_table)


def _metric(metrics: Any, name: str, purpose: str, make: Callable[[argparse.Namespace], Metric], roles: str) -> Any:
    command = metrics.add_parser(name, help=purpose, description=f"{purpose}.", epilog=_DATA.format(roles))
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--manifest", metavar="FILE.jsonl")
    source.add_argument("--folder", action="append", default=[], type=_pair, metavar="ROLE=DIR")
    command.add_argument("--field", action="append", default=[], type=_pair, metavar="ROLE=KEY", help="of the manifest")
    command.add_argument("--where", action="append", default=[], type=_pair, metavar="KEY=VALUE", help="which lines")
    command.add_argument("--row", metavar="NAME", help="the system's name in the table (default: the name of OUT)")
    add_out(command)
    command.set_defaults(run=_score, make=make)
    return command


def _recogniser(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--recogniser",
        metavar="DIR",
        help="what hears the role audio: a checkpoint of a ctc stage, or the local folder of a transformers model; "
        "without it the role transcript is scored",
    )


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not (key and sign and value):
        raise argparse.ArgumentTypeError(f"{text!r} must be written NAME=VALUE")
    return key, value


def _score(arguments: argparse.Namespace) -> int:
    from spectron.evaluation.score import items
    from spectron.evaluation.score.suite import score
    from spectron.types import UserError
    from spectron.utils.files import check_out

    check_out(arguments.out)
    if arguments.folder and (arguments.field or arguments.where):
        raise UserError("--field and --where choose from a --manifest; with --folder the roles are the folders.")
    metric = arguments.make(arguments)
    if arguments.manifest:
        fields, where = dict(arguments.field), dict(arguments.where)
        scored = items.from_manifest(arguments.manifest, metric.roles, fields, where)
    else:
        scored = items.from_folders(dict(arguments.folder), metric.roles)
    results = score(metric, scored, arguments.out, arguments.row or Path(arguments.out).absolute().name)
    return print_results(results, arguments.out)


def _table(arguments: argparse.Namespace) -> int:
    from spectron.evaluation.results import markdown
    from spectron.evaluation.score.table import joined

    print(markdown(joined(arguments.results)))
    return 0


def _heard_by(arguments: argparse.Namespace) -> Recogniser | None:
    if not arguments.recogniser:
        return None
    from spectron.recognition.recogniser import load_recogniser

    return load_recogniser(arguments.recogniser)


def _voices(arguments: argparse.Namespace) -> Metric:
    from spectron.evaluation.judges.sound_judges import Resemblyzer
    from spectron.evaluation.score.metrics import Voices

    return Voices(Resemblyzer())


def _dnsmos(arguments: argparse.Namespace) -> Metric:
    from spectron.evaluation.judges.sound_judges import DNSMOS
    from spectron.evaluation.score.metrics import Quality

    return Quality("dnsmos", DNSMOS(), pairs=False)


def _pesq(arguments: argparse.Namespace) -> Metric:
    from spectron.evaluation.judges.sound_judges import PESQ
    from spectron.evaluation.score.metrics import Quality

    return Quality("pesq", PESQ(), pairs=True)


def _stoi(arguments: argparse.Namespace) -> Metric:
    from spectron.evaluation.judges.sound_judges import STOI
    from spectron.evaluation.score.metrics import Quality

    return Quality("stoi", STOI(), pairs=True)


def _wer(arguments: argparse.Namespace) -> Metric:
    from spectron.evaluation.score.metrics import Words

    return Words(_heard_by(arguments))


def _perplexity(arguments: argparse.Namespace) -> Metric:
    from spectron.evaluation.judges.language_models import load_language_model
    from spectron.evaluation.score.metrics import Perplexity

    return Perplexity(load_language_model(arguments.lm), _heard_by(arguments), arguments.keep_case)


def _qa(arguments: argparse.Namespace) -> Metric:
    from spectron.evaluation.score.metrics import Questions

    return Questions(_heard_by(arguments))
