"""Six real voices count (Free Spoken Digits): encoder by CTC, LM on text, then both together with speech.

    spectron train configs/digits.py --set data.root=DIR --workdir runs/digits
    spectron evaluate counting --checkpoint runs/digits --out runs/digits/evaluation

DIR holds Free Spoken Digits: either the manifest.jsonl layout or upstream's recordings/ folder.
Time and expected result: configs/README.md.
"""

from spectron.config import (
    CTCConfig,
    DataConfig,
    EncoderConfig,
    Experiment,
    FeatureConfig,
    FramesConfig,
    JointConfig,
    LMConfig,
    MixtureConfig,
    ModelConfig,
    OptimizerConfig,
    SpecAugmentConfig,
    StageConfig,
    StreamConfig,
    TaskConfig,
    TextLMConfig,
    WordsConfig,
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
            TaskConfig("counting_text", "counting_text"),
        ),
        # Half of the speech is random digits: with the 24 sequences alone, whole continuations would be memorised.
        mixtures=(MixtureConfig("speech", (("counting", 0.5), ("random", 0.5))),),
        vocabulary=WordsConfig(WORDS),
        max_seconds=4.2,
        max_prompt_seconds=2.1,
        max_continuation_seconds=2.1,
        max_tokens=8,
    )


def experiment() -> Experiment:
    """1.9 M parameters, four frames a decoder step."""
    ctc = StageConfig(
        "ctc",
        (StreamConfig(CTCConfig(), "random", 16),),
        steps=400,
        optimizer=OptimizerConfig("muon", 0.02, adam_learning_rate=2e-3, warmup_steps=30),
        save_every=400,
    )
    text = StageConfig(
        "text",
        (StreamConfig(TextLMConfig(prefix_tokens=3), "counting_text", 32),),
        steps=400,
        optimizer=OptimizerConfig("muon", 0.02, adam_learning_rate=2e-3, warmup_steps=30),
        save_every=400,
    )
    joint = StageConfig(
        "joint",
        (
            StreamConfig(
                JointConfig(reconstruction_weight=2.0, alignment_weight=1.0, agreement_weight=0.25), "speech", 16
            ),
            StreamConfig(TextLMConfig(), "counting_text", 16, weight=0.3),
        ),
        steps=6300,
        optimizer=OptimizerConfig("muon", 0.02, adam_learning_rate=2e-3, factors=(("encoder", 0.1),), ema_decay=0.998),
        start_from=(("encoder", "ctc"), ("lm", "text")),
        save_every=900,
    )
    return Experiment(
        "digits",
        data(),
        (ctc, text, joint),
        # The floor is about 40 dB below loud speech: quieter sound is noise, which the loss should not count.
        features=FeatureConfig(per_band=False, log_floor=2.5e-3),
        model=ModelConfig(
            encoder=EncoderConfig(specaugment=SpecAugmentConfig(max_freq_fraction=0.15)),
            lm=LMConfig(),
            frames=FramesConfig(frames_per_step=4, prenet_dropout=0.4),
        ),
    )
