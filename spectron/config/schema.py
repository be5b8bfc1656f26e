"""The settings of an experiment: frozen dataclasses.

Defaults here are the simple case; a paper's values live in configs/. The valid values of each setting are in checks.py,
where a new setting needs a row.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from spectron.config.overrides import Choice
from spectron.types import UserError


@dataclasses.dataclass(frozen=True)
class FeatureConfig:
    """Log-mel features of Spectron (arXiv 2305.15255): 16 kHz, 128 bands, 12.5 ms; window and range are unverified."""

    sample_rate: int = 16_000
    num_mels: int = 128
    window_seconds: float = 0.05
    hop_seconds: float = 0.0125
    low_hz: float = 20.0
    high_hz: float = 8_000.0
    log_floor: float = 1e-5  # ours: log(max(mel, floor)); 16-bit noise lies just below it
    std_floor: float = 0.1  # ours: bands without content (of 8 kHz recordings) must not be amplified
    per_band: bool = True  # False: one mean and deviation for all bands (ours)
    dft: str = "fft"  # "fft" | "matmul" (a matrix product, faster on TPU); the same numbers

    @property
    def window(self) -> int:
        """Samples in a window."""
        return round(self.window_seconds * self.sample_rate)

    @property
    def hop(self) -> int:
        """Samples from the start of one frame to the start of the next."""
        return round(self.hop_seconds * self.sample_rate)

    @property
    def fft_size(self) -> int:
        """The smallest power of two that is at least a window."""
        return 1 << (self.window - 1).bit_length()

    def num_frames(self, num_samples: Any) -> Any:
        """Frames of a recording, whole steps only: 60,000 samples, a published "3 s" prompt, are 300 frames.

        Takes ints or integer arrays.
        """
        return num_samples // self.hop


@dataclasses.dataclass(frozen=True)
class SpecAugmentConfig:
    """Masking blocks of the encoder's input (arXiv 1904.08779); that Spectron uses these numbers is unverified."""

    num_freq_blocks: int = 2
    num_time_blocks: int = 10
    max_freq_fraction: float = 0.33
    max_time_fraction: float = 0.05


class EncoderConfig(Choice):
    """The speech encoder, with the settings of its frontend. Members: ConformerConfig, and those of other modules."""


@dataclasses.dataclass(frozen=True)
class ConformerConfig(EncoderConfig, kind="conformer"):
    """Conformer on log-mel; width, depth and kernel of the paper's 600 M model are in configs/."""

    features: FeatureConfig = FeatureConfig()  # what the encoder reads; Experiment.features is what the model predicts
    dim: int = 128
    num_layers: int = 2
    num_heads: int = 4
    kernel_size: int = 5
    ff_multiple: int = 4
    conv_channels: int = 256
    rope_base: float = 10_000.0
    dropout: float = 0.1
    specaugment: SpecAugmentConfig = SpecAugmentConfig()


class ConnectorConfig(Choice):
    """The layers between encoder and LM. Members: LinearConnectorConfig, StackMLPConnectorConfig, and others' own."""


@dataclasses.dataclass(frozen=True)
class LinearConnectorConfig(ConnectorConfig, kind="linear"):
    """One linear layer (arXiv 2305.15255)."""


@dataclasses.dataclass(frozen=True)
class StackMLPConnectorConfig(ConnectorConfig, kind="stack_mlp"):
    """Stack frames, then linear, ReLU, linear (SLAM-ASR, arXiv 2402.08846, whose values are the defaults)."""

    stack: int = 5  # encoder frames in one vector
    hidden: int = 2048


@dataclasses.dataclass(frozen=True)
class LMConfig:
    """Decoder LM. The defaults are a Llama-like model: RMSNorm, rotary positions, gated feed-forward, no biases."""

    dim: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 0  # width of one head; 0: dim / num_heads
    attention_scale: float = 0.0  # factor of the attention scores; 0: head width ** -0.5
    qkv_bias: bool = False
    out_bias: bool = False
    ff_dim: int = 352
    activation: str = "gelu_tanh"  # "gelu" | "gelu_tanh" | "silu" | "relu"
    gated: bool = True  # feed-forward: act(gate) * up, or act(up) alone
    ff_bias: bool = False
    norm: str = "rms"  # "rms" | "layer"
    norm_epsilon: float = 1e-6
    norm_offset: float = 0.0  # RMSNorm multiplies by norm_offset + scale (Gemma: 1)
    positions: str = "rotary"  # "rotary" | "learned" | "none"
    rope_base: float = 10_000.0
    max_positions: int = 0  # size of the table of learned positions
    embedding_scale: float = 1.0  # factor of the token embeddings (Gemma: dim ** 0.5)
    tie_embeddings: bool = False
    tied_logit_scale: float = 0.0  # factor of the logits of tied embeddings; 0: dim ** -0.5 (ours; most open LMs: 1)
    dropout: float = 0.0
    attention: str = "plain"  # training; "cudnn" on NVIDIA GPUs, "splash" on TPUs: kernels that store no scores

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.head_dim or self.dim // self.num_heads


@dataclasses.dataclass(frozen=True)
class FramesConfig:
    """Pre-net, post-net, stop head and the frame stream."""

    frames_per_step: int = 1  # spectrogram frames in one decoder position; the paper has 1
    bottleneck: int = 64  # unverified
    prenet_dropout: float = 0.5  # ours, Tacotron 2's
    dropout_in_decoding: bool = True  # ours: the cure for copying the last frame
    go: str = "prompt"  # ours: "prompt", its last frames start the frame stream; or "zeros"
    stop_threshold: float = 0.5


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The whole Spectron."""

    encoder: EncoderConfig = ConformerConfig()
    connector: ConnectorConfig = LinearConnectorConfig()
    lm: LMConfig = LMConfig()
    frames: FramesConfig = FramesConfig()
    bidirectional_prefix: bool = True  # the LM reads the encoded prompt in both directions (the paper), or causally
    compute_dtype: str = "float32"
    scan_layers: bool = True
    remat: str = "none"  # "none" | "full" | "dots"
    logits_chunk: int = 0  # training: positions per row whose vocabulary logits are in memory at once; 0: all


class ObjectiveConfig(Choice):
    """What a stream of batches trains. Members: JointConfig, CTCConfig, TextLMConfig, and those of other modules."""


@dataclasses.dataclass(frozen=True)
class JointConfig(ObjectiveConfig, kind="spectron"):
    """Spectron's loss, L = L_CE + λ (L_s + L_f + L_t) + stop (arXiv 2305.15255)."""

    reconstruction_weight: float = 0.1  # λ (unverified)
    time_deltas: int = 3  # K
    stop_weight: float = 1.0  # ours
    stop_positive_weight: float = 5.0  # ours: last frames are rare
    # Ours: cross-entropy of the token being spoken at every frame step, if the data say when each word ends.
    alignment_weight: float = 0.0
    # Ours, after BLSP-KD (arXiv 2405.19041): tokens without cross-entropy are predicted, given the recording, as the LM
    # predicts them from the text alone, so that what it knows from text is kept.
    agreement_weight: float = 0.0


@dataclasses.dataclass(frozen=True)
class CTCConfig(ObjectiveConfig, kind="ctc"):
    """CTC training of the speech encoder."""


@dataclasses.dataclass(frozen=True)
class TextLMConfig(ObjectiveConfig, kind="text_lm"):
    """Next-token prediction on text alone."""

    prefix_tokens: int = 0  # up to this many first tokens are a bidirectional prefix without loss (drawn per example)


class VocabularyConfig(Choice):
    """Settings of the text vocabulary. Members: WordsConfig, CharactersConfig, BytesConfig, SentencePieceConfig."""


@dataclasses.dataclass(frozen=True)
class WordsConfig(VocabularyConfig, kind="words"):
    """A closed list of words separated by spaces."""

    words: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class CharactersConfig(VocabularyConfig, kind="characters"):
    """A closed list of characters, the space among them."""

    characters: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class BytesConfig(VocabularyConfig, kind="bytes"):
    """UTF-8 bytes."""


@dataclasses.dataclass(frozen=True)
class SentencePieceConfig(VocabularyConfig, kind="sentencepiece"):
    """A SentencePiece model.

    size: the number of ids, our four special ones included; 0 asks the model. If it is given, the model is read only
    where there is text, and must agree.
    """

    path: str = ""
    size: int = 0


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """One seqio task: where examples come from. Sources are listed in spectron/data/sources.py.

    normaliser: the case of its texts before they become tokens. "keep" leaves it, "lower" is lower case, "truecase"
    gives each word the spelling that the vocabulary knows best (see spectron/data/normalising.py). A corpus in capitals
    takes three times as many pieces of a vocabulary made from ordinary text.
    """

    name: str
    source: str  # a key of SOURCES: "manifest", "librispeech", "text", "counting", …
    split: str = "train"
    root: str = ""  # "" takes data.root
    size: int = 0  # examples an endless source declares (an epoch of it); 0 lets the source decide
    normaliser: str = "keep"  # "keep", "lower" or "truecase"


@dataclasses.dataclass(frozen=True)
class MixtureConfig:
    """A seqio mixture: tasks and how often each is drawn."""

    name: str
    rates: tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Tasks, mixtures and the fixed sizes of a batch."""

    root: str = ""
    packed: str = ""  # a folder written by `spectron data pack`, read with numpy alone; "" reads the tasks themselves
    reader: str = "seqio"  # "seqio", or "direct": the same batches without TensorFlow (ignored when packed is set)
    clips: str = "fsdd"  # digits of the counting world: "fsdd" (recordings in data.root) or "espeak" (synthesised)
    tasks: tuple[TaskConfig, ...] = ()
    mixtures: tuple[MixtureConfig, ...] = ()
    vocabulary: VocabularyConfig = BytesConfig()
    prompt_seconds: float = 3.75  # the published "3 s" prompts are 60,000 samples
    min_continuation_seconds: float = 1.0  # ours: shorter utterances are left out and counted
    max_seconds: float = 16.0
    max_prompt_seconds: float = 3.75
    max_continuation_seconds: float = 12.25
    max_tokens: int = 256
    # Lengths in seconds, rising: every batch belongs to one bucket and is padded to that bucket's length. () pads all
    # to max_seconds, which is the longest bucket whether it is listed or not. A stream's batch_size is the rows of
    # the longest; shorter ones hold about as many seconds in more rows, a multiple of row_multiple.
    buckets: tuple[float, ...] = ()
    bucket_tokens: tuple[int, ...] = ()  # the longest text of each listed bucket; () is max_tokens for all
    row_multiple: int = 8  # ours: must be a multiple of the mesh's batch shards x accumulate
    max_left_out: float = 0.5  # ours: a task that loses a larger share of its records to the limits stops the run
    readers: int = 0  # threads that read and decode recordings; 0: one per core, at most 16 (ours)


class OptimizerConfig(Choice):
    """How parameters are updated. Members: AdamConfig, MuonConfig, FrozenConfig."""


@dataclasses.dataclass(frozen=True)
class FrozenConfig(OptimizerConfig, kind="frozen"):
    """Keep the parameters as they are: no gradient, no optimizer state, no average, no copy in checkpoints.

    They must come from another checkpoint, named in `start_from`. Matrices are held in model.compute_dtype.
    """


@dataclasses.dataclass(frozen=True)
class LearningRateConfig(OptimizerConfig):
    """What all optimizers that train have in common: the learning rate, its schedule, decay and multipliers."""

    learning_rate: float = 1e-3
    schedule: str = "cosine"  # "constant" | "cosine" | "linear" | "rsqrt"
    warmup_steps: int = 100
    final_fraction: float = 0.05  # of the learning rate, at the last step ("cosine" and "linear")
    b1: float = 0.9
    b2: float = 0.98
    weight_decay: float = 0.0  # of matrices, decoupled
    lr_multipliers: tuple[tuple[str, float], ...] = ()  # by the start of a path: (("encoder", 0.1), ("lm/layers", 0.5))


@dataclasses.dataclass(frozen=True)
class AdamConfig(LearningRateConfig, kind="adam"):
    """AdamW (arXiv 1711.05101)."""


@dataclasses.dataclass(frozen=True)
class MuonConfig(LearningRateConfig, kind="muon"):
    """Muon for matrices, AdamW for the other parameters."""

    adam_learning_rate: float = 0.0  # of the parameters that AdamW updates; 0 takes learning_rate
    newton_schulz_steps: int = 5  # that make an update orthogonal; of a small model 5 take as long as its gradient


@dataclasses.dataclass(frozen=True)
class StreamConfig:
    """One stream of batches and the objective it trains; the streams' losses add up in every step."""

    objective: ObjectiveConfig
    mixture: str  # a mixture or a task
    batch_size: int = 16
    weight: float = 1.0

    @property
    def key(self) -> str:
        """The name by which overrides address this stream: stages.joint.streams.ctc.weight=…"""
        return self.objective.kind


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One training run of an experiment.

    start_from: pairs of a part of the model and where its initial values come from, the name of an earlier stage or a
    checkpoint's folder; features, vocabulary and layers of the part must agree. optimizers: pairs of the start of a
    path ("lm", "lm/layers") and the optimizer of the parameters below it; the longest match counts, `optimizer` updates
    all others.
    """

    name: str
    streams: tuple[StreamConfig, ...]
    steps: int = 1000
    optimizer: OptimizerConfig = AdamConfig()
    start_from: tuple[tuple[str, str], ...] = ()
    optimizers: tuple[tuple[str, OptimizerConfig], ...] = ()
    clip_norm: float = 1.0  # of the gradient of everything that is trained; 0: no clipping
    ema_decay: float = 0.0  # of the moving average of what is trained; 0: none
    accumulate: int = 1  # micro-batches a step
    save_every: int = 500  # steps
    log_every: int = 50  # steps
    keep: int = 2  # checkpoints
    evaluate_on: str = ""  # a validation task: word errors (ctc) or log-perplexity, through seqio's Evaluator
    evaluate_every: int = 500  # ours: steps; and at the end
    evaluate_examples: int = 128  # ours: the task's first


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A whole training run: data, model and stages; read from top to bottom it is the recipe."""

    name: str
    data: DataConfig
    stages: tuple[StageConfig, ...]
    features: FeatureConfig = FeatureConfig()
    model: ModelConfig = ModelConfig()
    mesh: tuple[tuple[str, int], ...] = ()  # (("data", 4), ("fsdp", 2)); () puts every device on "data"
    seed: int = 0

    def stage(self, name: str) -> StageConfig:
        """The stage of that name."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise UserError(f"There is no stage {name!r}; {self.name!r} has {', '.join(s.name for s in self.stages)}.")
