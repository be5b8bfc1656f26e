"""Four synthesised voices count: training, speaking and evaluation in minutes, with nothing to download.

    bash launch/quickstart.sh

or, in an environment that has the project:

    spectron train configs/quickstart.py --workdir runs/quickstart
    spectron evaluate counting --checkpoint runs/quickstart --out runs/quickstart

Two CPU cores. Time and expected result: README.md.
"""

from spectron.config import (
    ConformerConfig,
    CTCConfig,
    DataConfig,
    Experiment,
    FeatureConfig,
    FramesConfig,
    JointConfig,
    LMConfig,
    MixtureConfig,
    ModelConfig,
    MuonConfig,
    SpecAugmentConfig,
    StageConfig,
    StreamConfig,
    TaskConfig,
    TextLMConfig,
    WordsConfig,
)

FEATURES = FeatureConfig(num_mels=80, per_band=False, log_floor=2.5e-3)

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def data() -> DataConfig:
    """Seen sequences and random digits in speech; all thirty sequences in text."""
    return DataConfig(
        clips="espeak",
        reader="direct",  # the same batches as through seqio, without TensorFlow's start-up
        tasks=(
            TaskConfig("counting", "counting", size=1_000_000),
            TaskConfig("random", "random_digits", size=1_000_000),
            TaskConfig("counting_text", "counting_text"),
        ),
        # More random digits than in digits.py: a short training must not spend itself on 24 continuations by heart.
        mixtures=(MixtureConfig("speech", (("counting", 0.2), ("random", 0.8))),),
        vocabulary=WordsConfig(WORDS),
        max_seconds=3.4,
        max_prompt_seconds=1.8,
        max_continuation_seconds=1.7,
        max_tokens=8,
    )


def experiment() -> Experiment:
    """A small model, eight frames (0.1 s) a decoder step."""
    quick = MuonConfig(0.02, adam_learning_rate=2e-3, warmup_steps=20)
    ctc = StageConfig("ctc", (StreamConfig(CTCConfig(), "random", 8),), 300, quick, save_every=300)
    text = StageConfig(
        "text", (StreamConfig(TextLMConfig(prefix_tokens=3), "counting_text", 32),), 200, quick, save_every=200
    )
    joint = StageConfig(
        "joint",
        (
            StreamConfig(
                JointConfig(reconstruction_weight=2.0, alignment_weight=1.0, agreement_weight=0.25), "speech", 8
            ),
            StreamConfig(TextLMConfig(), "counting_text", 16, weight=0.3),
        ),
        2000,
        MuonConfig(0.02, adam_learning_rate=2e-3, newton_schulz_steps=3, lr_multipliers=(("encoder", 0.1),)),
        ema_decay=0.995,
        start_from=(("encoder", "ctc"), ("lm", "text")),
        save_every=500,
    )
    return Experiment(
        "quickstart",
        data(),
        (ctc, text, joint),
        features=FEATURES,
        model=ModelConfig(
            encoder=ConformerConfig(
                features=FEATURES,
                dim=96,
                num_layers=2,
                conv_channels=128,
                dropout=0.0,
                specaugment=SpecAugmentConfig(max_freq_fraction=0.15),
            ),
            lm=LMConfig(dim=128, num_layers=3, ff_dim=256),
            frames=FramesConfig(frames_per_step=8, prenet_dropout=0.4),
        ),
    )
