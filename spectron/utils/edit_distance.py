"""Edit distance between two sequences of words."""

from __future__ import annotations

from collections.abc import Sequence

from spectron.types import UserError


def edit_distance(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """The least substitutions, deletions and insertions that turn one list of words into the other (Levenshtein).

    Raises UserError if the package rapidfuzz is missing.
    """
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise UserError(f"Word errors need the package {error.name!r}; pip install 'spectron-jax[eval]'.") from error
    return int(Levenshtein.distance(reference, hypothesis))
