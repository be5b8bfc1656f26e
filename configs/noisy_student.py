"""Noisy student training of a small recogniser on a CPU: a third of the speakers labelled, two generations.

    spectron noisy-student configs/noisy_student.py --set root=DIR --workdir runs/noisy_student

DIR holds librispeech_train5/ (Mini LibriSpeech, 28 speakers), librispeech_spk251/ (one utterance of each speaker of
train-clean-100) and librispeech_transcripts/. 9 of the 28 speakers, drawn with seed 0, are labelled; the other 19 are
the pool, whose transcripts only score the pseudo-labels. Held out are the 223 speakers of spk251 that are not in
train5. The language model reads train-clean-100's text without any utterance of train5 or spk251.

Each student starts from the generation before (ours: training from scratch takes too long on a CPU), with stronger
SpecAugment and a new learning-rate schedule. Time and expected result: configs/README.md.
"""

from spectron.config import (
    CharactersConfig,
    CTCConfig,
    DataConfig,
    EncoderConfig,
    Experiment,
    FeatureConfig,
    MixtureConfig,
    ModelConfig,
    OptimizerConfig,
    SpecAugmentConfig,
    StageConfig,
    StreamConfig,
    TaskConfig,
)
from spectron.config.noisy_student import (
    BeamConfig,
    GenerationConfig,
    LanguageModelConfig,
    LoopConfig,
    SelectionConfig,
    SplitConfig,
)

LABELLED, HELD_OUT = "librispeech_train5/manifest.jsonl", "librispeech_spk251/manifest.jsonl"


def data() -> DataConfig:
    """Whole utterances, characters."""
    return DataConfig(
        reader="direct",
        tasks=(TaskConfig("labelled", "shards"), TaskConfig("pseudo", "shards")),
        mixtures=(MixtureConfig("mixed", (("labelled", 0.5), ("pseudo", 0.5))),),
        vocabulary=CharactersConfig(tuple(" 'ABCDEFGHIJKLMNOPQRSTUVWXYZ")),
        prompt_seconds=0.0,
        min_continuation_seconds=1.0,
        max_seconds=16.0,
        max_continuation_seconds=16.0,
        max_tokens=330,
    )


def recogniser(name: str, mixture: str, steps: int, peak: float, augment: SpecAugmentConfig) -> Experiment:
    """0.7 M parameters. An encoder frame is 40 ms: at 50 ms fast speech has more letters than frames."""
    optimizer = OptimizerConfig("muon", peak, adam_learning_rate=peak / 10, warmup_steps=30)
    return Experiment(
        name,
        data(),
        (StageConfig("ctc", (StreamConfig(CTCConfig(), mixture, 8),), steps, optimizer, save_every=50, log_every=10),),
        features=FeatureConfig(num_mels=80, window_seconds=0.025, hop_seconds=0.01),
        model=ModelConfig(
            # Ours: without dropout, whose random bits would double the time of a step, and without the scan over
            # layers, which would add half of it.
            encoder=EncoderConfig(
                dim=96, num_layers=3, num_heads=4, kernel_size=7, conv_channels=96, dropout=0.0, specaugment=augment
            ),
            scan_layers=False,
        ),
    )


def teacher() -> GenerationConfig:
    """On the labelled speakers alone."""
    weak = SpecAugmentConfig(2, 4, 0.15, 0.05)
    return GenerationConfig("teacher", recogniser("teacher", "labelled", 2400, 0.02, weak))


def generation_1() -> GenerationConfig:
    """On the labelled speakers and the teacher's labels."""
    stronger = SpecAugmentConfig(2, 6, 0.2, 0.05)
    experiment = recogniser("generation_1", "mixed", 800, 0.01, stronger)
    return GenerationConfig("generation_1", experiment, SelectionConfig(keep=0.5), start_from_previous=True)


def generation_2() -> GenerationConfig:
    """On the labelled speakers and the first student's labels."""
    strongest = SpecAugmentConfig(2, 8, 0.25, 0.05)
    experiment = recogniser("generation_2", "mixed", 800, 0.01, strongest)
    return GenerationConfig("generation_2", experiment, SelectionConfig(keep=0.7), start_from_previous=True)


def loop() -> LoopConfig:
    """Teacher and two students."""
    return LoopConfig(
        "noisy_student",
        SplitConfig(LABELLED, HELD_OUT, labelled_share=1 / 3),
        (teacher(), generation_1(), generation_2()),
        LanguageModelConfig(("librispeech_transcripts/train-clean-100.trans.txt.gz",), (LABELLED, HELD_OUT), order=3),
        BeamConfig(lm_weights=(0.5, 0.75, 1.0, 1.5), word_bonuses=(0.0, 1.0, 2.0)),
    )


def experiment() -> Experiment:
    """The teacher alone. To train it by itself, set the roots of the tasks."""
    return teacher().experiment
