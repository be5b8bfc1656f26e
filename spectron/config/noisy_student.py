"""What a noisy student loop is: frozen dataclasses that a config file's `loop()` returns.

Each generation is a whole Experiment, as for `spectron train`; from the second on it also configures the labelling.
"""

from __future__ import annotations

import dataclasses

from spectron.config.schema import Experiment


@dataclasses.dataclass(frozen=True)
class LanguageModelConfig:
    """A word n-gram model estimated from text, for shallow fusion.

    texts: files, plain or .gz; "ID TEXT" lines if the name ends in .trans.txt, else one text per line.
    leave_out: manifests (JSONL) whose utterances, by id, are not read: what is recognised must not be in the model.
    """

    texts: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    order: int = 3
    min_count: int = 1  # words seen less often are unknown, and the beam search cannot write them


@dataclasses.dataclass(frozen=True)
class BeamConfig:
    """Beam search over words of the language model, and the weights that are tried on held-out speech."""

    beam: int = 50  # ours
    beam_tokens: int = 12  # ours: labels that may follow in each frame
    beam_threshold: float = 25.0  # ours, nats below the best
    lm_weights: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    word_bonuses: tuple[float, ...] = (0.0, 1.0)
    tuning_utterances: int = 60  # of the held-out speech, the first by a hash of their ids


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
    """The filter of pseudo-labels: a length-normalised score, then balancing of lengths (arXiv 2005.09629)."""

    keep: float = 0.7  # share of the held-out hypotheses that would pass
    balanced: float = 0.9  # at least this share of what passes stays when lengths are balanced
    bucket_tokens: int = 50  # labels in a bucket of lengths
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """Speech with texts, split by speaker into labelled and pool, and held-out speech of other speakers.

    corpus, held_out: manifests (JSONL). labelled_share: of the speakers, drawn by `seed`. Paths below data.root.
    """

    corpus: str = ""
    held_out: str = ""
    pool: str = ""  # another manifest as the pool; "" takes the speakers of corpus that are not drawn
    labelled_share: float = 1.0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """One training: `experiment` reads the tasks "labelled" and, from the second on, "pseudo"."""

    name: str
    experiment: Experiment
    selection: SelectionConfig = SelectionConfig()
    start_from_previous: bool = False  # parameters of the generation before; False starts afresh
    teacher: str = ""  # a local directory of other weights that labels for this one instead of the generation before


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """The whole loop, in the order of its generations."""

    name: str
    split: SplitConfig
    generations: tuple[GenerationConfig, ...]
    language_model: LanguageModelConfig = LanguageModelConfig()
    beam: BeamConfig = BeamConfig()
    pieces: int = (
        0  # pieces of a SentencePiece model trained on the labelled texts; 0: each experiment's own vocabulary
    )
    root: str = ""  # folder that the paths of split and language_model are relative to
