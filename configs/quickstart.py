"""Ten synthesised voices count: everything the project does, in minutes, with nothing to download.

    bash launch/quickstart.sh

or, in an environment that has the project:

    spectron train configs/quickstart.py --workdir runs/quickstart
    spectron evaluate counting --checkpoint runs/quickstart --out runs/quickstart

Two cores; time and expected result: see README.md.
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
        clips="espeak",
        reader="direct",  # the same batches as through seqio, without TensorFlow's start-up
        tasks=(
            TaskConfig("counting", "counting", size=1_000_000),
            TaskConfig("random", "random_digits", size=1_000_000),
            TaskConfig("pairs", "digit_pairs", size=1_000_000),
            TaskConfig("short", "short_digits", size=1_000_000),
            TaskConfig("counting_text", "counting_text"),
        ),
        mixtures=(MixtureConfig("speech", (("counting", 0.35), ("random", 0.4), ("short", 0.25))),),
        vocabulary=VocabularyConfig("words", WORDS),
        max_seconds=4.0,
        max_prompt_seconds=2.0,
        max_continuation_seconds=2.0,
        max_tokens=8,
    )


def speech(learning_rate: float) -> OptimizerConfig:
    """Of every stage that speaks."""
    return OptimizerConfig("muon", learning_rate, adam_learning_rate=2e-3, factors=(("encoder", 0.1),), ema_decay=0.995)


def experiment() -> Experiment:
    """A small model, eight frames (0.1 s) a decoder step."""
    quick = OptimizerConfig("muon", 0.02, adam_learning_rate=2e-3, warmup_steps=20)
    ctc = StageConfig("ctc", (StreamConfig("ctc", "random", 8),), 300, quick, save_every=300)
    text = StageConfig(
        "text", (StreamConfig("text_lm", "counting_text", 32, prefix_tokens=3),), 200, quick, save_every=200
    )
    # Speech follows the text only if it first learns how one word sounds, then which word is due (see README).
    counting_text = StreamConfig("text_lm", "counting_text", 8, weight=0.5)
    pairs = StageConfig(
        "pairs",
        (StreamConfig("spectron", "pairs", 16), counting_text),
        600,
        speech(0.012),
        start_from=(("encoder", "ctc"), ("lm", "text")),
        save_every=600,
        settings=("data.max_seconds=1.8", "data.max_prompt_seconds=1.0", "data.max_continuation_seconds=1.0"),
    )
    short = StageConfig(
        "short",
        (StreamConfig("spectron", "short", 16), counting_text),
        500,
        speech(0.01),
        start_from=tuple((part, "pairs") for part in PARTS),
        save_every=500,
        settings=("data.max_seconds=2.4", "data.max_prompt_seconds=1.8", "data.max_continuation_seconds=1.8"),
    )
    joint = StageConfig(
        "joint",
        (StreamConfig("spectron", "speech", 8), counting_text),
        1600,
        speech(0.01),
        start_from=tuple((part, "short") for part in PARTS),
        save_every=800,
    )
    return Experiment(
        "quickstart",
        data(),
        (ctc, text, pairs, short, joint),
        features=FeatureConfig(num_mels=80, per_band=False, log_floor=2.5e-3),
        model=ModelConfig(
            encoder=EncoderConfig(
                dim=96,
                num_layers=2,
                conv_channels=128,
                dropout=0.0,
                specaugment=SpecAugmentConfig(max_freq_fraction=0.15),
            ),
            lm=LMConfig(dim=128, num_layers=3, ff_dim=256),
            frames=FramesConfig(frames_per_step=8, frame_dropout=0.2, tokens_per_second=2.0),
        ),
        loss=LossConfig(reconstruction_weight=1.0),
    )
