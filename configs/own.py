"""Spectron on your own recordings, from ten minutes of one voice to a hundred hours, any language.

    spectron data inspect RECORDINGS --out DIR                  # what is wrong with them; prepares them for training
    spectron train configs/own.py --workdir runs/own --set data.root=DIR
    spectron generate --checkpoint runs/own --out answers DIR/prompts
    spectron evaluate continuation --checkpoint runs/own --task held_out --out page         # page/report.html

The lengths of a batch, the vocabulary, the sizes and the steps follow from what `inspect` measured. --set changes any
of them: model.lm.dim=512 stages.joint.steps=100000 data.max_tokens=300 …
"""

import math
from pathlib import Path

from spectron.config import (
    CharactersConfig,
    ConformerConfig,
    CTCConfig,
    DataConfig,
    Experiment,
    FramesConfig,
    JointConfig,
    LMConfig,
    ModelConfig,
    MuonConfig,
    SentencePieceConfig,
    StageConfig,
    StreamConfig,
    TaskConfig,
    TextLMConfig,
    VocabularyConfig,
)
from spectron.data.prepared import HELD_OUT, PIECES, Prepared, load_prepared
from spectron.types import UserError

MAX_SECONDS = 20.0  # ours: longer recordings are left out, for the memory of a batch


def experiment(data_root: str = "") -> Experiment:
    """Encoder by CTC, LM on text, then both together. data_root: the value of data.root."""
    if not data_root:
        raise UserError("configs/own.py needs data.root=DIR, what `spectron data inspect RECORDINGS --out DIR` wrote.")
    prepared = load_prepared(data_root)
    ctc, text, joint = steps(prepared.hours)
    return Experiment(
        "own",
        data(prepared, data_root),
        (
            StageConfig("ctc", (StreamConfig(CTCConfig(), "recordings", 16),), steps=ctc, optimizer=optimizer()),
            StageConfig("text", (StreamConfig(TextLMConfig(), "texts", 32),), steps=text, optimizer=optimizer()),
            StageConfig(
                "joint",
                (
                    StreamConfig(JointConfig(reconstruction_weight=2.0), "recordings", 16),  # as in digits.py
                    StreamConfig(TextLMConfig(), "texts", 16, weight=0.3),
                ),
                steps=joint,
                optimizer=optimizer((("encoder", 0.1),)),
                ema_decay=0.998,
                start_from=(("encoder", "ctc"), ("lm", "text")),
            ),
        ),
        model=model(prepared.hours),
    )


def data(prepared: Prepared, root: str) -> DataConfig:
    """The prompt is the first 2 s of a recording, or less if many recordings are shorter than 3 s."""
    longest = min(MAX_SECONDS, max(1.0, math.ceil(prepared.longest)))
    prompt = prepared.prompt_seconds
    thirds = prepared.thirds if prepared.hours >= 2 else prepared.thirds[-1:]
    return DataConfig(
        root=root,
        reader="direct",
        tasks=(
            TaskConfig("recordings", "manifest"),
            TaskConfig(HELD_OUT, "manifest", HELD_OUT),
            TaskConfig("texts", "text"),
        ),
        vocabulary=vocabulary(prepared, root),
        prompt_seconds=prompt,
        min_continuation_seconds=prompt / 2,
        max_seconds=longest,
        max_prompt_seconds=2 * prompt,
        max_continuation_seconds=longest - prompt / 2,
        max_tokens=prepared.max_tokens,
        # Ours: a third of the recordings in each bucket; with little data two thirds share one, because each bucket is
        # compiled once more.
        buckets=tuple(sorted({float(math.ceil(t)) for t in thirds if math.ceil(t) < longest})),
    )


def vocabulary(prepared: Prepared, root: str) -> VocabularyConfig:
    """Pieces of words: CTC needs fewer tokens than encoder frames (50 ms). Characters if there is little text."""
    if prepared.characters:
        return CharactersConfig(tuple(prepared.characters))
    return SentencePieceConfig(str(Path(root).absolute() / PIECES))


def model(hours: float) -> ModelConfig:
    """Ours: 3 M parameters up to 2 hours, 14 M up to 20, 74 M beyond; four frames a decoder step."""
    if hours < 2:
        encoder, lm = ConformerConfig(num_layers=4), LMConfig()
    elif hours < 20:
        encoder = ConformerConfig(dim=256, num_layers=6)
        lm = LMConfig(dim=256, num_layers=6, ff_dim=704)
    else:
        encoder = ConformerConfig(dim=512, num_layers=8, num_heads=8)
        lm = LMConfig(dim=512, num_layers=8, num_heads=8, num_kv_heads=4, ff_dim=1408)
    return ModelConfig(encoder=encoder, lm=lm, frames=FramesConfig(frames_per_step=4))


def steps(hours: float) -> tuple[int, int, int]:
    """Steps of the stages ctc, text and joint. Ours: they grow with the square root of the minutes, so that more data
    is seen longer, but fewer times."""
    unit = min(80_000, max(2_000, round(math.sqrt(60 * hours)) * 1_000))
    return unit, unit // 2, 2 * unit


def optimizer(lr_multipliers: tuple[tuple[str, float], ...] = ()) -> MuonConfig:
    """As in digits.py, the recipe that was tried to the end on real voices."""
    return MuonConfig(0.02, adam_learning_rate=2e-3, lr_multipliers=lr_multipliers)
