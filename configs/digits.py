"""Real voices count (Free Spoken Digits): encoder by CTC, LM on text, then both jointly.

    spectron train configs/digits.py --set data.root=DIR --workdir runs/digits
    spectron evaluate counting --checkpoint runs/digits --out runs/digits/evaluation

DIR holds Free Spoken Digits: either the manifest.jsonl layout or upstream's recordings/ folder.
Time and expected result: see the table in README.md.
"""

from spectron.config import (
    DataConfig,
    EncoderConfig,
    Experiment,
    FeatureConfig,
    FramesConfig,
    LMConfig,
    LossConfig,
    MixtureConfig,
    ModelConfig,
    OptimizerConfig,
    SpecAugmentConfig,
    StageConfig,
    StreamConfig,
    TaskConfig,
    VocabularyConfig,
)

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def data() -> DataConfig:
    """Seen sequences and random digits in speech; all thirty sequences in text."""
    return DataConfig(
        clips="fsdd",
        reader="direct",  # the same batches as through seqio, without TensorFlow's start-up
        tasks=(
            TaskConfig("counting", "counting", size=1_000_000),
            TaskConfig("random", "random_digits", size=1_000_000),
            TaskConfig("short", "short_digits", size=1_000_000),
            TaskConfig("counting_text", "counting_text"),
        ),
        # Most of the speech does not count: with the 24 sequences alone whole continuations are memorised.
        mixtures=(MixtureConfig("speech", (("counting", 0.3), ("random", 0.5), ("short", 0.2))),),
        vocabulary=VocabularyConfig("words", WORDS),
        max_seconds=4.8,
        max_prompt_seconds=2.4,
        max_continuation_seconds=2.4,
        max_tokens=8,
    )


def experiment() -> Experiment:
    """1.7 M parameters, four frames a decoder step."""
    ctc = StageConfig(
        "ctc",
        (StreamConfig("ctc", "random", 16),),
        steps=600,
        optimizer=OptimizerConfig("muon", 0.02, adam_learning_rate=2e-3, warmup_steps=30),
        save_every=300,
    )
    text = StageConfig(
        "text",
        (StreamConfig("text_lm", "counting_text", 32, prefix_tokens=3),),
        steps=400,
        optimizer=OptimizerConfig("muon", 0.02, adam_learning_rate=2e-3, warmup_steps=30),
        save_every=400,
    )
    joint = StageConfig(
        "joint",
        (
            StreamConfig("spectron", "speech", 8),
            StreamConfig("text_lm", "counting_text", 8, weight=0.5),
        ),
        steps=9000,
        optimizer=OptimizerConfig(
            "muon", 0.012, adam_learning_rate=2e-3, warmup_steps=100, factors=(("encoder", 0.1),), ema_decay=0.998
        ),
        start_from=(("encoder", "ctc"), ("lm", "text")),
        save_every=1000,
    )
    return Experiment(
        "digits",
        data(),
        (ctc, text, joint),
        features=FeatureConfig(per_band=False),
        model=ModelConfig(
            encoder=EncoderConfig(specaugment=SpecAugmentConfig(max_freq_fraction=0.15)),
            lm=LMConfig(),
            # Dropped history is what makes speech follow the text (see README).
            frames=FramesConfig(frames_per_step=4, frame_dropout=1.0),
        ),
        loss=LossConfig(reconstruction_weight=1.0),
    )
