"""A check of texts against the vocabulary: unknown tokens are counted and named before anything is trained on them."""

from __future__ import annotations

import collections
import logging

from spectron.config import SentencePieceConfig, VocabularyConfig
from spectron.data.example import Source
from spectron.data.vocabulary import lacks_pieces, make_vocabulary
from spectron.types import UserError
from spectron.utils.spacing import evenly_spaced

log = logging.getLogger(__name__)

SAMPLE = 200  # ours: records whose texts are looked at
MOST = 0.5  # ours: with a larger share of unknown tokens there is nothing to learn
NAMED = 5  # ours: of the most frequent unknown tokens


def check_known(task: str, source: Source, config: VocabularyConfig) -> None:
    """Log how many tokens of a sample of a task's texts are unknown, and the most frequent ones.

    Does nothing on a machine that lacks the SentencePiece model. Raises UserError if most tokens are unknown.
    """
    if isinstance(config, SentencePieceConfig) and lacks_pieces(config.path):
        return
    vocabulary = make_vocabulary(config)
    total, unknown = 0, collections.Counter[str]()
    numbers = evenly_spaced(range(len(source)), SAMPLE)
    for i in numbers:
        count, others = vocabulary.unknown(" ".join(source.text_of(int(i)).split()))
        total += count
        unknown.update(others)
    if not unknown:
        return
    named = ", ".join(f"{token!r} ({count})" for token, count in unknown.most_common(NAMED))
    summary = (
        f"Task {task!r}: {unknown.total()} of the {total} tokens of {len(numbers)} texts are not in the vocabulary, "
        f"most often {named}"
    )
    if unknown.total() > MOST * total:
        raise UserError(f"{summary}; give texts and data.vocabulary the same letters and case.")
    log.warning("%s.", summary)
