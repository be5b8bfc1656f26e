"""Real voices count (Free Spoken Digits): encoder by CTC, LM on text, then speech of one digit, of two, of three.

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

PARTS = ("encoder", "connector", "lm", "prenet", "postnet", "stop")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def data() -> DataConfig:
    """Seen sequences and random digits in speech; all thirty sequences in text."""
    return DataConfig(
        clips="fsdd",
        reader="direct",  # the same batches as through seqio, without TensorFlow's start-up
        tasks=(
            TaskConfig("counting", "counting", size=1_000_000),
            TaskConfig("random", "random_digits", size=1_000_000),
            TaskConfig("pairs", "digit_pairs", size=1_000_000),
            TaskConfig("short", "short_digits", size=1_000_000),
            TaskConfig("counting_text", "counting_text"),
        ),
        # Most of the speech does not count: with the 24 sequences alone whole continuations are memorised.
        mixtures=(MixtureConfig("speech", (("counting", 0.35), ("random", 0.4), ("short", 0.25))),),
        vocabulary=VocabularyConfig("words", WORDS),
        max_seconds=4.8,
        max_prompt_seconds=2.4,
        max_continuation_seconds=2.4,
        max_tokens=8,
    )


def speech(learning_rate: float) -> OptimizerConfig:
    """Of every stage that speaks."""
    return OptimizerConfig("muon", learning_rate, adam_learning_rate=2e-3, factors=(("encoder", 0.1),), ema_decay=0.998)


def experiment() -> Experiment:
    """1.9 M parameters, four frames a decoder step."""
    ctc = StageConfig(
        "ctc",
        (StreamConfig("ctc", "random", 16),),
        steps=400,
        optimizer=OptimizerConfig("muon", 0.02, adam_learning_rate=2e-3, warmup_steps=30),
        save_every=400,
    )
    text = StageConfig(
        "text",
        (StreamConfig("text_lm", "counting_text", 32, prefix_tokens=3),),
        steps=400,
        optimizer=OptimizerConfig("muon", 0.02, adam_learning_rate=2e-3, warmup_steps=30),
        save_every=400,
    )
    # Speech follows the text only if it first learns how one word sounds, then which word is due (see README).
    counting_text = StreamConfig("text_lm", "counting_text", 8, weight=0.5)
    pairs = StageConfig(
        "pairs",
        (StreamConfig("spectron", "pairs", 16), counting_text),
        steps=1000,
        optimizer=speech(0.012),
        start_from=(("encoder", "ctc"), ("lm", "text")),
        save_every=500,
        settings=("data.max_seconds=2.0", "data.max_prompt_seconds=1.0", "data.max_continuation_seconds=1.0"),
    )
    short = StageConfig(
        "short",
        (StreamConfig("spectron", "short", 16), counting_text),
        steps=1000,
        optimizer=speech(0.01),
        start_from=tuple((part, "pairs") for part in PARTS),
        save_every=500,
        settings=("data.max_seconds=2.6", "data.max_prompt_seconds=1.8", "data.max_continuation_seconds=1.8"),
    )
    joint = StageConfig(
        "joint",
        (StreamConfig("spectron", "speech", 8), counting_text),
        steps=6000,
        optimizer=speech(0.01),
        start_from=tuple((part, "short") for part in PARTS),
        save_every=1000,
    )
    return Experiment(
        "digits",
        data(),
        (ctc, text, pairs, short, joint),
        # The floor lies some 40 dB below loud speech: what is quieter is noise, which the loss should not count.
        features=FeatureConfig(per_band=False, log_floor=2.5e-3),
        model=ModelConfig(
            encoder=EncoderConfig(specaugment=SpecAugmentConfig(max_freq_fraction=0.15)),
            lm=LMConfig(),
            frames=FramesConfig(frames_per_step=4, frame_dropout=0.2, tokens_per_second=2.0),
        ),
        loss=LossConfig(reconstruction_weight=1.0),
    )
