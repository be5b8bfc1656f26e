"""`spectron evaluate`."""

from __future__ import annotations

import argparse
from typing import Any

from spectron.cli import flags, questions


def add_evaluate(commands: Any) -> None:
    """Flags of `spectron evaluate`."""
    evaluate = commands.add_parser("evaluate", help="measure a checkpoint: results.json and report.html")
    suites = evaluate.add_subparsers(dest="suite", required=True, metavar="SUITE")
    _add_counting(suites)
    _add_recognition(suites)
    _add_likelihood(suites)
    _add_continuation(suites)
    _add_probes(suites)
    questions.add_spoken_qa(suites)
    questions.add_knowledge(suites)


def _add_counting(suites: Any) -> None:
    counting = suites.add_parser("counting", help="six digits, three heard and three to come")
    flags.add_checkpoint(counting)
    flags.add_out(counting)
    _add_world(counting, 2)
    flags.add_decoding(counting, 3)
    flags.add_limit(counting, "items")
    counting.add_argument("--write-prompts", metavar="DIR", help="write three of the prompts there, as WAV")
    flags.add_set(counting)
    counting.set_defaults(run=_run_counting)


def _add_world(suite: argparse.ArgumentParser, repeats: int) -> None:
    """Add the flags of the counting world; a flag that is not given is None."""
    suite.add_argument(
        "--judges", metavar="DIR", help="folder in which the counting world's judges are kept (default OUT/judges)"
    )
    suite.add_argument(
        "--repeats", type=flags.positive, metavar="N", help=f"takes per speaker and sequence (default {repeats})"
    )


def _add_continuation(suites: Any) -> None:
    continuation = suites.add_parser("continuation", help="prompts of real speech, continued and judged")
    continuation.add_argument("--task", required=True, help="one of its own tasks, or KIND:PATH (librispeech:DIR)")
    continuation.add_argument("--prompt-seconds", type=float, default=0.0, metavar="X", help="default: the task's own")
    _add_speaking(continuation, 1)
    continuation.set_defaults(run=_run_continuation)


def _add_probes(suites: Any) -> None:
    probes = suites.add_parser("probes", help="the same prompts without text, with forced text, shorter and longer")
    probes.add_argument("--task", default="", help="default: the counting world; else as for continuation")
    probes.add_argument(
        "--prompts", type=float, nargs="+", default=[], metavar="X", help="seconds (1 2 3.75 6), or digits (1 2 4)"
    )
    probes.add_argument("--text", default="", help="force this text too")
    _add_world(probes, 1)
    _add_speaking(probes, 3)
    probes.set_defaults(run=_run_probes)


def _add_speaking(suite: argparse.ArgumentParser, seeds: int) -> None:
    """Add the flags of the suites in which a checkpoint continues a task's utterances and judges rate them."""
    flags.add_checkpoint(suite)
    flags.add_out(suite)
    suite.add_argument(
        "--split",
        default="",
        metavar="NAME",
        help="split of the task, instead of the one it names (required for librispeech)",
    )
    flags.add_decoding(suite, seeds)
    flags.add_limit(suite, "items")
    flags.add_judges(suite)
    flags.add_set(suite)


def _add_recognition(suites: Any) -> None:
    recognition = suites.add_parser("recognition", help="word error rate of a recogniser, greedy and with an LM")
    flags.add_recogniser(recognition)
    recognition.add_argument("--task", required=True, help="one of its own tasks, or KIND:PATH (manifest:DIR)")
    flags.add_out(recognition)
    recognition.add_argument("--lm", metavar="FILE", help="an ARPA file to fuse, instead of its own")
    recognition.add_argument("--lm-weight", type=float, default=1.0, metavar="X", help="of its log-probability")
    recognition.add_argument("--word-bonus", type=float, default=0.0, metavar="X", help="added for every word")
    flags.add_limit(recognition, "utterances")
    flags.add_set(recognition)
    recognition.set_defaults(run=_run_recognition)


def _add_likelihood(suites: Any) -> None:
    likelihood = suites.add_parser(
        "likelihood", help="which of two recordings is the likelier: sWUGGY, sBLIMP, StoryCloze, SALMon, JSONL"
    )
    flags.add_checkpoint(likelihood)
    likelihood.add_argument(
        "--pairs",
        required=True,
        metavar="PATH",
        help='gold.csv or a suite\'s folder, or JSONL: {"good", "bad"} with files, optionally "id", "group" and "item" '
        "(pairs of one item count as one)",
    )
    flags.add_out(likelihood)
    likelihood.add_argument(
        "--prompt-seconds", type=float, default=1.0, metavar="X", help="heard before scoring; at most half (default 1)"
    )
    flags.add_batch_size(likelihood, "recordings scored together, an even number")
    flags.add_limit(likelihood, "pairs (not items)")
    likelihood.set_defaults(run=_run_likelihood)


def _judges(arguments: argparse.Namespace) -> Any:
    """The judges asked for, once it is known that their answers can be kept. Raises UserError."""
    from spectron.evaluation.judges.language_models import load_language_model
    from spectron.evaluation.judges.sound_judges import DNSMOS, Resemblyzer
    from spectron.evaluation.suites.judge_runner import Judges
    from spectron.recognition.recogniser import load_recogniser
    from spectron.types import UserError
    from spectron.utils.files import check_out

    check_out(arguments.out)
    if arguments.lm and not arguments.asr:
        raise UserError("--lm reads what a recogniser heard: give --asr too.")
    return Judges(
        asr=load_recogniser(arguments.asr) if arguments.asr else None,
        lm=load_language_model(arguments.lm) if arguments.lm else None,
        speaker=Resemblyzer() if arguments.speaker else None,
        mos=DNSMOS() if arguments.dnsmos else None,
    )


def _run_likelihood(arguments: argparse.Namespace) -> int:
    from spectron.evaluation.suites.likelihood import evaluate_likelihood

    results = evaluate_likelihood(
        arguments.checkpoint,
        arguments.pairs,
        arguments.out,
        arguments.prompt_seconds,
        arguments.batch_size,
        arguments.limit,
    )
    return flags.print_results(results, arguments.out)


def _run_recognition(arguments: argparse.Namespace) -> int:
    from spectron.evaluation.suites.recognition import evaluate_recognition
    from spectron.recognition.ctc_search import Fusion

    fusion = Fusion(arguments.lm, arguments.lm_weight, arguments.word_bonus) if arguments.lm else None
    results = evaluate_recognition(
        arguments.recogniser,
        arguments.task,
        arguments.out,
        arguments.set,
        fusion,
        arguments.limit,
    )
    return flags.print_results(results, arguments.out)


def _run_continuation(arguments: argparse.Namespace) -> int:
    from spectron.evaluation.suites.continuation import evaluate_continuation

    results = evaluate_continuation(
        arguments.checkpoint,
        arguments.task,
        arguments.out,
        _judges(arguments),
        split=arguments.split,
        prompt_seconds=arguments.prompt_seconds,
        seeds=arguments.seeds,
        batch_size=arguments.batch_size,
        limit=arguments.limit,
        overrides=arguments.set,
    )
    return flags.print_results(results, arguments.out)


def _run_probes(arguments: argparse.Namespace) -> int:
    from spectron.evaluation.counting.world import evaluate_digit_probes
    from spectron.evaluation.suites.probes import evaluate_probes
    from spectron.types import UserError

    not_used = ("judges", "repeats") if arguments.task else ("asr", "lm", "speaker", "dnsmos", "split")
    for flag in not_used:
        if getattr(arguments, flag):
            where = "the counting world, without --task" if arguments.task else "another --task"
            raise UserError(f"--{flag} is for {where}; leave it out.")
    common = {
        "prompts": arguments.prompts,
        "text": arguments.text,
        "seeds": arguments.seeds,
        "batch_size": arguments.batch_size,
        "limit": arguments.limit,
        "overrides": arguments.set,
    }
    if arguments.task:
        results = evaluate_probes(
            arguments.checkpoint, arguments.out, arguments.task, _judges(arguments), split=arguments.split, **common
        )
    else:
        results = evaluate_digit_probes(
            arguments.checkpoint, arguments.out, arguments.judges, repeats=arguments.repeats or 1, **common
        )
    return flags.print_results(results, arguments.out)


def _run_counting(arguments: argparse.Namespace) -> int:
    from spectron.evaluation.counting.suite import evaluate_counting

    results = evaluate_counting(
        arguments.checkpoint,
        arguments.out,
        arguments.judges,
        seeds=arguments.seeds,
        repeats=arguments.repeats or 2,
        batch_size=arguments.batch_size,
        overrides=arguments.set,
        limit=arguments.limit,
        prompts=arguments.write_prompts,
    )
    return flags.print_results(results, arguments.out)
