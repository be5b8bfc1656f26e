"""What a checkpoint must share with a config before a part of it can be trained further, beside shapes.

An encoder reads a log-mel of other bands, an LM other tokens, and either other attention heads, without an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from spectron.checkpoints.checkpoint import Checkpoint
from spectron.config import (
    Experiment,
    FeatureConfig,
    SentencePieceConfig,
    StageConfig,
    VocabularyConfig,
)
from spectron.data.vocabulary import lacks_pieces, make_vocabulary
from spectron.models.encoder import make_encoder
from spectron.types import Statistics, UserError

# What the parameters of a part depend on, besides their shapes.
READS_SPEECH, PREDICTS_FRAMES, KNOWS_TOKENS = ("encoder",), ("prenet", "postnet"), ("lm", "ctc_head")
FREE = "dft"  # the one setting of features that changes no number
# Settings of a part that change what its layers compute, but no shape.
LAYERS = {
    "encoder": ("num_heads", "rope_base"),
    "lm": (
        *("num_heads", "attention_scale", "activation", "norm", "norm_epsilon", "norm_offset", "positions"),
        *("rope_base", "embedding_scale", "tied_logit_scale"),
    ),
}


def check_source(source: Checkpoint, part: str, experiment: Experiment, stage: StageConfig) -> None:
    """Raise UserError if a part of a checkpoint was trained on other features, or with another vocabulary or layers.

    An encoder needs its own input features, pre-net and post-net those of the predicted spectrogram, LM and CTC head
    the vocabulary; of other parts nothing is known.
    """
    theirs, ours = source.experiment, experiment
    what = f"stages.{stage.name}.start_from: the part {part!r} of checkpoint {str(source.folder)!r}"
    if part in READS_SPEECH:
        _check_features(what, "model.encoder.features", _encoder_features(theirs), _encoder_features(ours))
    if part in PREDICTS_FRAMES:
        _check_features(what, "features", theirs.features, ours.features)
    if part in KNOWS_TOKENS:
        _check_vocabulary(what, theirs.data.vocabulary, ours.data.vocabulary)
    for name in LAYERS.get(part, ()):
        old, new = (getattr(getattr(each.model, part), name, None) for each in (theirs, ours))
        if old != new:
            raise _unlike(what, f"model.{part}.{name}", old, new)


def source_statistics(
    sources: Mapping[str, Checkpoint], features: FeatureConfig, encoder_features: FeatureConfig
) -> tuple[Statistics | None, Statistics | None]:
    """(of the predicted spectrogram, of the encoder's input): statistics with which parts of other checkpoints were
    trained; None where no source has statistics of these features.

    sources: part → checkpoint. Those of the encoder's input come from the encoder's source first, those of the
    predicted spectrogram from the source of post-net or pre-net first.
    """
    target: Statistics | None = None
    own: Statistics | None = None
    for part in sorted(sources, key=_first("postnet", "prenet", "encoder")):
        statistics = sources[part].statistics
        if target is None and statistics is not None and _same(sources[part].experiment.features, features):
            target = dataclasses.replace(statistics, encoder=None)
    for part in sorted(sources, key=_first("encoder")):
        statistics, theirs = sources[part].statistics, _encoder_features(sources[part].experiment)
        if own is None and statistics is not None and _same(theirs, encoder_features):
            own = statistics.of_encoder
    return target, own


def _first(*parts: str) -> Any:
    """A key for sorting: these parts first, in this order."""
    return lambda part: (parts.index(part) if part in parts else len(parts), part)


def _encoder_features(experiment: Experiment) -> FeatureConfig | None:
    return make_encoder(experiment.model).measured_features


def _same(theirs: FeatureConfig | None, ours: FeatureConfig | None) -> bool:
    return _difference(theirs, ours) is None


def _difference(theirs: FeatureConfig | None, ours: FeatureConfig | None) -> tuple[str, Any, Any] | None:
    """(key, their value, our value) of the first setting that differs and changes the numbers; None if none does."""
    if theirs is None or ours is None:
        return None if theirs is ours else ("", theirs, ours)
    for field in dataclasses.fields(FeatureConfig):
        values = getattr(theirs, field.name), getattr(ours, field.name)
        if field.name != FREE and values[0] != values[1]:
            return (field.name, *values)
    return None


def _check_features(what: str, key: str, theirs: FeatureConfig | None, ours: FeatureConfig | None) -> None:
    difference = _difference(theirs, ours)
    if difference is None:
        return
    name, old, new = difference
    if not name:
        raise UserError(f"{what} reads other features than model.encoder; choose the encoder it was trained with.")
    raise _unlike(what, f"{key}.{name}", old, new)


def _unlike(what: str, key: str, old: Any, new: Any) -> UserError:
    return UserError(
        f"{what} was trained with {key} = {old!r}, this config has {new!r}; set it to {old!r}, or leave the part out "
        f"of start_from."
    )


def _check_vocabulary(what: str, theirs: VocabularyConfig, ours: VocabularyConfig) -> None:
    old, new = _checksum(theirs), _checksum(ours)
    if old is None or new is None or old == new:
        return
    kinds = f"{theirs.kind} there and {ours.kind} here" if theirs.kind != ours.kind else f"both {ours.kind}"
    raise UserError(
        f"{what} was trained with another vocabulary ({kinds}, checksums {old[:8]} and {new[:8]}), so that its tokens "
        f"mean something else; set data.vocabulary to that checkpoint's, or leave the part out of start_from."
    )


def _checksum(vocabulary: VocabularyConfig) -> str | None:
    """SHA-256 of what decides the ids of a text; None if a SentencePiece model is not on this machine."""
    if isinstance(vocabulary, SentencePieceConfig) and lacks_pieces(vocabulary.path):
        return None
    return make_vocabulary(vocabulary).checksum()
