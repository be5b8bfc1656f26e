"""A recogniser whose encoder Spectron can start from: one GPU, Mini LibriSpeech labelled, LJSpeech as the pool.

    spectron noisy-student configs/recogniser.py --set root=DIR --workdir runs/recogniser

DIR as in configs/noisy_student.py, with ljspeech385/ in it too. Time and result: not trained yet; the aim is a dev WER
of at most 35 % with the language model, on the 223 held-out speakers of spk251. 20 M parameters, Spectron's own
features. An encoder frame is 50 ms, so the labels are pieces of words: there are fewer of them than frames. To start a
Spectron from the encoder:

    --set 'stages.joint.start_from=[["encoder", "runs/recogniser/generation_1/training/ctc"]]'

with the same encoder settings in its model.
"""

from spectron.config import (
    CTCConfig,
    DataConfig,
    EncoderConfig,
    Experiment,
    MixtureConfig,
    ModelConfig,
    OptimizerConfig,
    SentencePieceConfig,
    SpecAugmentConfig,
    StageConfig,
    StreamConfig,
    TaskConfig,
)
from spectron.config.noisy_student import BeamConfig, GenerationConfig, LanguageModelConfig, LoopConfig, SplitConfig
from spectron.data.vocabulary import SPECIALS

LABELLED, HELD_OUT = "librispeech_train5/manifest.jsonl", "librispeech_spk251/manifest.jsonl"
PIECES = 256  # ours: the text of five hours is too little for more


def data() -> DataConfig:
    """Whole utterances in buckets of length. The noisy student loop sets the vocabulary's SentencePiece model."""
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


def encoder(augment: SpecAugmentConfig) -> EncoderConfig:
    """12 layers of width 256. Kernel 15, which is 0.75 s; Spectron's 5 is short for a recogniser."""
    return EncoderConfig(
        dim=256, num_layers=12, num_heads=4, kernel_size=15, conv_channels=256, dropout=0.1, specaugment=augment
    )


def recogniser(name: str, mixture: str, steps: int, augment: SpecAugmentConfig) -> Experiment:
    """About 200 s of speech a step, bfloat16."""
    optimizer = OptimizerConfig("muon", 0.02, adam_learning_rate=1e-3, warmup_steps=500, ema_decay=0.999)
    return Experiment(
        name,
        data(),
        (StageConfig("ctc", (StreamConfig(CTCConfig(), mixture, 16),), steps, optimizer, save_every=1000),),
        model=ModelConfig(encoder=encoder(augment), compute_dtype="bfloat16"),
    )


def teacher() -> GenerationConfig:
    """5.3 labelled hours, about 100 times."""
    return GenerationConfig("teacher", recogniser("teacher", "labelled", 10_000, SpecAugmentConfig(2, 5, 0.2, 0.05)))


def generation_1() -> GenerationConfig:
    """LibriSpeech, and LJSpeech with the teacher's labels; from scratch, with Spectron's SpecAugment."""
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
    """The teacher alone, for `spectron compile`. To train it, set data.vocabulary.path and the roots of the tasks."""
    return teacher().experiment
