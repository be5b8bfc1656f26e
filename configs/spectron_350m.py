"""The paper's Spectron for continuation: a 600 M Conformer, a 350 M prefix LM, 128 utterances per step.

    spectron compile configs/spectron_350m.py --topology v5e:4x4 --mesh fsdp=16      # what it needs, no TPU needed
    spectron train configs/spectron_350m.py --workdir DIR --set data.root=DIR data.vocabulary.path=FILE \\
        mesh='[["fsdp",16]]'

data.root holds the LibriSpeech layout, data.vocabulary.path a SentencePiece model of 256,000 pieces minus the four
special ones. Time and result: never run, there was no pod; README.md says what was proved without one.

"Unverified" is recalled of arXiv 2305.15255; "ours" is this project's choice if the paper gives none.
"""

from spectron.config import (
    AdamConfig,
    ConformerConfig,
    DataConfig,
    Experiment,
    FeatureConfig,
    JointConfig,
    LMConfig,
    MixtureConfig,
    ModelConfig,
    SentencePieceConfig,
    StageConfig,
    StreamConfig,
    TaskConfig,
)

FEATURES = FeatureConfig(dft="matmul")  # the defaults: 128 bands, 12.5 ms; 50 ms, 20 to 8,000 Hz (unverified)

# 600 M parameters (arXiv 2305.15255). Width 1024, 24 layers, 8 heads, kernel 5: the usual "Conformer XL" (unverified).
# Ours: 2,048 channels in the subsampling, and rotary positions, which have no parameters; relative ones have 25 M.
ENCODER = ConformerConfig(
    features=FEATURES, dim=1024, num_layers=24, num_heads=8, kernel_size=5, ff_multiple=4, conv_channels=2048
)

# 350 M parameters (arXiv 2305.15255). Ours: the embedding is tied and counted among them (197 M), heads of 64, a
# feed-forward of three widths.
LM = LMConfig(dim=768, num_layers=20, num_heads=12, num_kv_heads=12, ff_dim=2304, dropout=0.0, tie_embeddings=True)


def data() -> DataConfig:
    """Utterances of up to 12 s, prompts of 3.75 s (the published ones are 60,000 samples)."""
    return DataConfig(
        # Ours: the transcripts are in capitals, the vocabulary is one of ordinary text.
        tasks=(TaskConfig("speech", "librispeech", normaliser="truecase"),),
        mixtures=(MixtureConfig("train", (("speech", 1.0),)),),
        vocabulary=SentencePieceConfig(size=256_000),  # 256 k (unverified)
        max_seconds=12.0,  # ours
        max_left_out=0.85,  # of Mini LibriSpeech's utterances 72 % are longer than 12 s, 7 % shorter than 4.75 s
        prompt_seconds=3.75,
        max_prompt_seconds=3.75,
        max_continuation_seconds=8.25,
        max_tokens=64,  # ours: 12 s are some 35 words
    )


def experiment(lm: LMConfig = LM, name: str = "spectron_350m", batch: int = 128) -> Experiment:
    """One stage; an encoder and an LM of one's own are named with stages.joint.start_from."""
    joint = StageConfig(
        "joint",
        (StreamConfig(JointConfig(), "train", batch),),
        steps=100_000,  # ours
        # Ours: Adam with its usual weight decay and warm-up.
        optimizer=AdamConfig(2e-4, warmup_steps=2000, weight_decay=0.01, b2=0.98),
        save_every=1000,
        log_every=50,
    )
    return Experiment(
        name,
        data(),
        (joint,),
        features=FEATURES,
        # The paper's, and the defaults: one frame a decoder step, K 3, bottleneck 64 and λ 0.1 (both unverified).
        model=ModelConfig(
            encoder=ENCODER, lm=lm, compute_dtype="bfloat16", scan_layers=True, remat="full", logits_chunk=16
        ),
    )
