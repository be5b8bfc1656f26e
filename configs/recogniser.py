"""The recogniser whose encoder Spectron starts from: one GPU, all of Mini LibriSpeech labelled, LJSpeech as the pool.

    spectron noisy-student configs/recogniser.py --set root=DIR --workdir runs/recogniser

DIR as in configs/noisy_student.py, and ljspeech385/. Not run yet. Target: dev WER of at most 35 % with the language
model on the 223 held-out speakers of spk251. 20 M parameters, Spectron's own features (so 50 ms per frame, and pieces
of words, so that a text has fewer pieces than there are frames). A Spectron takes the encoder by

    --set 'stages.joint.start_from=[["encoder", "runs/recogniser/generation_1/training/ctc"]]'

with the same encoder settings in its model.
"""

from spectron.config import (
    ConformerConfig,
    CTCConfig,
    DataConfig,
    Experiment,
    MixtureConfig,
    ModelConfig,
    MuonConfig,
    SentencePieceConfig,
    SpecAugmentConfig,
    StageConfig,
    StreamConfig,
    TaskConfig,
)
from spectron.config.noisy_student import BeamConfig, GenerationConfig, LanguageModelConfig, LoopConfig, SplitConfig
from spectron.data.vocabulary import SPECIALS

LABELLED, HELD_OUT = "librispeech_train5/manifest.jsonl", "librispeech_spk251/manifest.jsonl"
PIECES = 256  # ours: five hours of text fill no larger table


def data() -> DataConfig:
    """Whole utterances in buckets of length; the loop puts its own SentencePiece model into the vocabulary."""
    return DataConfig(
        reader="direct",
        tasks=(TaskConfig("labelled", "shards"), TaskConfig("pseudo", "shards")),
        mixtures=(MixtureConfig("mixed", (("labelled", 0.8), ("pseudo", 0.2))),),
        vocabulary=SentencePieceConfig(size=SPECIALS + PIECES),
        prompt_seconds=0.0,
        min_continuation_seconds=1.0,
        max_seconds=17.5,
        max_continuation_seconds=17.5,
        max_tokens=200,
        buckets=(6.0, 10.0, 13.0, 15.0),
    )


def encoder(augment: SpecAugmentConfig) -> ConformerConfig:
    """12 layers of 256; Spectron's kernel of 5 is short, 15 frames are 0.75 s."""
    return ConformerConfig(
        dim=256, num_layers=12, num_heads=4, kernel_size=15, conv_channels=256, dropout=0.1, specaugment=augment
    )


def recogniser(name: str, mixture: str, steps: int, augment: SpecAugmentConfig) -> Experiment:
    """About 200 s of speech per step, bfloat16."""
    optimizer = MuonConfig(0.02, adam_learning_rate=1e-3, warmup_steps=500)
    return Experiment(
        name,
        data(),
        (
            StageConfig(
                "ctc", (StreamConfig(CTCConfig(), mixture, 16),), steps, optimizer, ema_decay=0.999, save_every=1000
            ),
        ),
        model=ModelConfig(encoder=encoder(augment), compute_dtype="bfloat16"),
    )


def teacher() -> GenerationConfig:
    """5.3 labelled hours, about 100 times."""
    return GenerationConfig("teacher", recogniser("teacher", "labelled", 10_000, SpecAugmentConfig(2, 5, 0.2, 0.05)))


def generation_1() -> GenerationConfig:
    """And LJSpeech as the teacher heard it; afresh, with the paper's SpecAugment."""
    return GenerationConfig("generation_1", recogniser("generation_1", "mixed", 12_000, SpecAugmentConfig()))


def loop() -> LoopConfig:
    """Teacher and one student."""
    return LoopConfig(
        "recogniser",
        SplitConfig(LABELLED, HELD_OUT, pool="ljspeech385/manifest.jsonl"),
        (teacher(), generation_1()),
        LanguageModelConfig(("librispeech_transcripts/train-clean-100.trans.txt.gz",), (LABELLED, HELD_OUT)),
        BeamConfig(beam=100),
        pieces=PIECES,
    )


def experiment() -> Experiment:
    """The teacher alone, for `spectron compile`; to train, give data.vocabulary.path and the tasks' roots."""
    return teacher().experiment
