"""Spectron on your own recordings: a manifest of utterances with their texts, a small model, any language.

    spectron train configs/recordings.py --workdir runs/recordings --set data.root=MANIFEST \\
        data.vocabulary.path=pieces.model data.tasks.texts.root=texts.txt

MANIFEST is a .jsonl or .tsv file with "audio" and "text" on every line (configs/README.md lists the optional keys),
texts.txt one text per line, pieces.model a SentencePiece model of it; README.md makes both from a manifest. Larger
models by --set model.lm.dim=512 and the like.
"""

from spectron.config import (
    CTCConfig,
    DataConfig,
    Experiment,
    FramesConfig,
    JointConfig,
    MixtureConfig,
    ModelConfig,
    SentencePieceConfig,
    StageConfig,
    StreamConfig,
    TaskConfig,
    TextLMConfig,
)


def data() -> DataConfig:
    """Utterances of 3 to 16 s; the prompt is the first 2 s unless the manifest says prompt_seconds."""
    return DataConfig(
        reader="direct",
        tasks=(TaskConfig("recordings", "manifest"), TaskConfig("texts", "text")),
        mixtures=(MixtureConfig("speech", (("recordings", 1.0),)),),
        # Pieces of words, not characters: CTC needs fewer tokens than encoder frames, which are 50 ms.
        vocabulary=SentencePieceConfig(),
        prompt_seconds=2.0,
        min_continuation_seconds=1.0,
        max_seconds=16.0,
        max_prompt_seconds=4.0,
        max_continuation_seconds=14.0,
        max_tokens=200,
        buckets=(8.0, 12.0),
    )


def experiment() -> Experiment:
    """Encoder by CTC, LM on text, then both together; all sizes and steps are ours, to be raised with the data."""
    return Experiment(
        "recordings",
        data(),
        (
            StageConfig("ctc", (StreamConfig(CTCConfig(), "speech", 16),), steps=10_000),
            StageConfig("text", (StreamConfig(TextLMConfig(), "texts", 32),), steps=5_000),
            StageConfig(
                "joint",
                (
                    StreamConfig(JointConfig(), "speech", 16),
                    StreamConfig(TextLMConfig(), "texts", 16, weight=0.3),
                ),
                steps=20_000,
                start_from=(("encoder", "ctc"), ("lm", "text")),
            ),
        ),
        model=ModelConfig(frames=FramesConfig(frames_per_step=4)),
    )
