"""`spectron evaluate spoken-qa | knowledge`: the suites that ask questions."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from spectron.cli import flags

if TYPE_CHECKING:
    from spectron.data.question_sets import QuestionSet


def add_spoken_qa(suites: Any) -> None:
    """Flags of `spectron evaluate spoken-qa`."""
    command = suites.add_parser("spoken-qa", help="spoken questions: the text and the speech of the answers, judged")
    flags.add_checkpoint(command)
    _add_questions(command)
    flags.add_asr(command)
    command.add_argument("--cascade-lm", metavar="DIR", help=f"answers what --asr heard, for comparison: {flags.LM}")
    flags.add_decoding(command, 1, "questions")
    command.add_argument("--voice", metavar="NAME", help="espeak's, for questions without a recording (en-us)")
    flags.add_set(command)
    command.set_defaults(run=_spoken_qa)


def add_knowledge(suites: Any) -> None:
    """Flags of `spectron evaluate knowledge`."""
    command = suites.add_parser("knowledge", help="what a text LM still answers in writing after speech training")
    command.add_argument("--before", required=True, metavar="DIR", help=f"before speech training: {flags.LM}")
    command.add_argument("--after", required=True, metavar="DIR", help="after it: the same kinds")
    _add_questions(command)
    command.set_defaults(run=_knowledge)


def _add_questions(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--questions",
        action="append",
        required=True,
        metavar="[NAME=]PATH",
        help="LLaMA-Questions' folder, a .tsv or .json as such sets are published, or a .jsonl of "
        '{"question", "answers" or "answer", optionally "id" and "audio"} (repeatable)',
    )
    flags.add_out(command)
    flags.add_limit(command, "questions of each set")
    command.add_argument(
        "--prompt", metavar="TEXT", help='what a text LM continues, with {question} (default "Question: …\\nAnswer:")'
    )
    command.add_argument("--max-tokens", type=flags.positive, metavar="N", help="of a text LM's answer (default 32)")


def _sets(arguments: argparse.Namespace) -> list[QuestionSet]:
    from spectron.data.question_sets import read_questions
    from spectron.types import UserError
    from spectron.utils.files import check_out

    if arguments.limit < 0:
        raise UserError(f"--limit {arguments.limit} is below 0; give how many questions of each set to ask, or 0.")
    check_out(arguments.out)
    return [read_questions(place, arguments.limit) for place in arguments.questions]


def _prompting(arguments: argparse.Namespace) -> dict[str, Any]:
    """prompt and max_tokens if they were given; a shell's backslash n is a line break."""
    given = {"max_tokens": arguments.max_tokens} if arguments.max_tokens else {}
    return given | ({"prompt": arguments.prompt.replace("\\n", "\n")} if arguments.prompt is not None else {})


def _spoken_qa(arguments: argparse.Namespace) -> int:
    sets = _sets(arguments)
    from spectron.evaluation.judges.language_models import load_language_model
    from spectron.evaluation.suites.spoken_qa import QASettings, evaluate_spoken_qa
    from spectron.recognition.recogniser import load_recogniser

    settings = QASettings(
        seeds=arguments.seeds,
        batch_size=arguments.batch_size,
        overrides=tuple(arguments.set),
        **_prompting(arguments),
        **({"voice": arguments.voice} if arguments.voice else {}),
    )
    asr = load_recogniser(arguments.asr) if arguments.asr else None
    lm = load_language_model(arguments.cascade_lm) if arguments.cascade_lm else None
    return flags.print_results(
        evaluate_spoken_qa(arguments.checkpoint, sets, arguments.out, asr, lm, settings), arguments.out
    )


def _knowledge(arguments: argparse.Namespace) -> int:
    sets = _sets(arguments)
    from spectron.evaluation.judges.language_models import load_language_model
    from spectron.evaluation.suites.knowledge import evaluate_knowledge

    before, after = (load_language_model(folder) for folder in (arguments.before, arguments.after))
    return flags.print_results(
        evaluate_knowledge(before, after, sets, arguments.out, **_prompting(arguments)), arguments.out
    )
