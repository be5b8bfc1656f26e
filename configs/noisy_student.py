"""Noisy student training in the small: a third of the speakers labelled, two generations, on a CPU.

    spectron noisy-student configs/noisy_student.py --set root=DIR --workdir runs/noisy_student

DIR holds librispeech_train5/ (Mini LibriSpeech, 28 speakers), librispeech_spk251/ (one utterance of each speaker of
train-clean-100) and librispeech_transcripts/. 9 of the 28 speakers, drawn with seed 0, are labelled; the other 19 are
the pool, whose transcripts only score the pseudo-labels. Held out are the 223 speakers of spk251 that are not in
train5. The language model reads train-clean-100's text without any utterance of train5 or spk251.

Students start from the previous generation's parameters (ours: a CPU's hours are too short to start afresh), with
stronger SpecAugment and a fresh learning-rate schedule. Time and result: two and a half hours on two cores of a busy
machine; dev WER 92, 90 and 88 % greedy, 75, 76 and 78 % with the LM (the table in README.md).
"""

from spectron.config import (
    CharactersConfig,
    ConformerConfig,
    CTCConfig,
    DataConfig,
    Experiment,
    FeatureConfig,
    MixtureConfig,
    ModelConfig,
    MuonConfig,
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

FEATURES = FeatureConfig(num_mels=80, window_seconds=0.025, hop_seconds=0.01)
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
    """0.7 M parameters. 40 ms per frame: at 50 ms fast speakers say more letters than there are frames."""
    optimizer = MuonConfig(peak, adam_learning_rate=peak / 10, warmup_steps=30)
    return Experiment(
        name,
        data(),
        (StageConfig("ctc", (StreamConfig(CTCConfig(), mixture, 8),), steps, optimizer, save_every=50, log_every=10),),
        features=FEATURES,
        model=ModelConfig(
            # Ours: dropout's random bits would cost as much as the step, and a scan over layers half as much again.
            encoder=ConformerConfig(
                features=FEATURES,
                dim=96,
                num_layers=3,
                num_heads=4,
                kernel_size=7,
                conv_channels=96,
                dropout=0.0,
                specaugment=augment,
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
    """The teacher alone; to train it by itself, give the tasks' roots."""
    return teacher().experiment
