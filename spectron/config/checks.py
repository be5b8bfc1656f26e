"""What each setting may be: one table of rules, and a list of the relations between settings.

They hold for every command: an experiment is checked when its config file is run, after overrides, when a checkpoint is
opened, and when training starts; always before a device is used or data are read.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import typing
from collections.abc import Iterator
from typing import Any

from spectron.config import noisy_student as student
from spectron.config import schema
from spectron.config.overrides import TYPES, Choice, element_name
from spectron.config.relations import RELATIONS
from spectron.config.rules import (
    ANY,
    COUNT,
    FREE,
    POSITIVE,
    RATE,
    SEED,
    SHARE,
    Each,
    FileName,
    OneOf,
    Pairs,
    Range,
    at,
    doubled,
    real,
    shown,
    whole,
)
from spectron.errors import UserError

LAYERS = whole(1, 10_000)
SECONDS = Range(0.0, 36_000.0, above=True)  # ours: ten hours of 16 kHz are well below 2³¹ samples
AXES = ("replica", "data", "fsdp", "tensor")  # of the mesh

# A class defined outside this package may add its rows: RULES[MyConfig] = {"dim": COUNT}. Without them its values are
# only checked for their types, and for numbers that are not finite.
RULES: dict[type, dict[str, Any]] = {
    schema.FeatureConfig: {
        "sample_rate": whole(1, 768_000),
        "num_mels": whole(1, 10_000),
        "window_seconds": Range(0.0, 10.0, above=True),
        "hop_seconds": Range(0.0, 10.0, above=True),
        "low_hz": real(0.0),
        "high_hz": POSITIVE,
        "log_floor": POSITIVE,
        "std_floor": POSITIVE,
        "per_band": FREE,
        "dft": OneOf(("fft", "matmul")),
    },
    schema.SpecAugmentConfig: {
        "num_freq_blocks": whole(0, 10_000),
        "num_time_blocks": whole(0, 10_000),
        "max_freq_fraction": SHARE,
        "max_time_fraction": SHARE,
    },
    schema.ConformerConfig: {
        "features": FREE,
        "dim": COUNT,
        "num_layers": LAYERS,
        "num_heads": COUNT,
        "kernel_size": whole(1, 10_000),
        "ff_multiple": whole(1, 1_000),
        "conv_channels": COUNT,
        "rope_base": POSITIVE,
        "dropout": RATE,
        "specaugment": FREE,
    },
    schema.LinearConnectorConfig: {},
    schema.StackMLPConnectorConfig: {"stack": whole(1, 10_000), "hidden": COUNT},
    schema.LMConfig: {
        "dim": COUNT,
        "num_layers": LAYERS,
        "num_heads": COUNT,
        "num_kv_heads": COUNT,
        "head_dim": whole(0),
        "attention_scale": real(0.0),
        "qkv_bias": FREE,
        "out_bias": FREE,
        "ff_dim": COUNT,
        "activation": OneOf(("gelu", "gelu_tanh", "silu", "relu")),
        "gated": FREE,
        "ff_bias": FREE,
        "norm": OneOf(("rms", "layer")),
        "norm_epsilon": POSITIVE,
        "norm_offset": ANY,
        "positions": OneOf(("rotary", "learned", "none")),
        "rope_base": POSITIVE,
        "max_positions": whole(0),
        "embedding_scale": POSITIVE,
        "tie_embeddings": FREE,
        "tied_logit_scale": real(0.0),
        "dropout": RATE,
        "attention": OneOf(("plain", "cudnn", "splash")),
    },
    schema.FramesConfig: {
        "frames_per_step": whole(1, 1_000),
        "bottleneck": COUNT,
        "prenet_dropout": RATE,
        "dropout_in_decoding": FREE,
        "go": OneOf(("prompt", "zeros")),
        "stop_threshold": SHARE,
    },
    schema.ModelConfig: {
        "encoder": FREE,
        "connector": FREE,
        "lm": FREE,
        "frames": FREE,
        "bidirectional_prefix": FREE,
        "compute_dtype": OneOf(("float32", "bfloat16", "float16")),
        "scan_layers": FREE,
        "remat": OneOf(("none", "full", "dots")),
        "logits_chunk": whole(0),
    },
    schema.JointConfig: {
        "reconstruction_weight": real(0.0),
        "time_deltas": whole(0, 1_000),
        "stop_weight": real(0.0),
        "stop_positive_weight": real(0.0),
        "alignment_weight": real(0.0),
        "agreement_weight": real(0.0),
    },
    schema.CTCConfig: {},
    schema.TextLMConfig: {"prefix_tokens": whole(0)},
    schema.WordsConfig: {"words": Each(FREE)},
    schema.CharactersConfig: {"characters": Each(FREE)},
    schema.BytesConfig: {},
    schema.SentencePieceConfig: {"path": FREE, "size": whole(0)},
    schema.TaskConfig: {
        "name": FileName(),
        "source": FREE,
        "split": FREE,
        "root": FREE,
        "size": whole(0),
        "normaliser": OneOf(("keep", "lower", "truecase")),
    },
    schema.MixtureConfig: {"name": FREE, "rates": Pairs(FREE, POSITIVE)},
    schema.DataConfig: {
        "root": FREE,
        "packed": FREE,
        "reader": OneOf(("seqio", "direct")),
        "clips": OneOf(("fsdd", "espeak")),
        "tasks": FREE,
        "mixtures": FREE,
        "vocabulary": FREE,
        "prompt_seconds": real(0.0, SECONDS.high),
        "min_continuation_seconds": real(0.0, SECONDS.high),
        "max_seconds": SECONDS,
        "max_prompt_seconds": SECONDS,
        "max_continuation_seconds": SECONDS,
        "max_tokens": COUNT,
        "buckets": Each(SECONDS),
        "bucket_tokens": Each(COUNT),
        "row_multiple": COUNT,
        "max_left_out": SHARE,
        "readers": whole(0, 1_024),
    },
    schema.FrozenConfig: {},
    schema.LearningRateConfig: {
        "learning_rate": real(0.0),
        "schedule": OneOf(("constant", "cosine", "linear", "rsqrt")),
        "warmup_steps": whole(0),
        "final_fraction": SHARE,
        "b1": RATE,
        "b2": RATE,
        "weight_decay": real(0.0),
        "lr_multipliers": Pairs(FREE, real(0.0)),
    },
    schema.AdamConfig: {},
    schema.MuonConfig: {"adam_learning_rate": real(0.0), "newton_schulz_steps": whole(1, 100)},
    schema.StreamConfig: {"objective": FREE, "mixture": FREE, "batch_size": COUNT, "weight": real(0.0)},
    schema.StageConfig: {
        "name": FileName(),
        "streams": FREE,
        "steps": COUNT,
        "optimizer": FREE,
        "start_from": Pairs(FREE, FREE),
        "optimizers": Pairs(FREE, FREE),
        "clip_norm": real(0.0),
        "ema_decay": RATE,
        "accumulate": COUNT,
        "save_every": COUNT,
        "log_every": COUNT,
        "keep": COUNT,
        "evaluate_on": FREE,
        "evaluate_every": COUNT,
        "evaluate_examples": COUNT,
    },
    schema.Experiment: {
        "name": FREE,
        "data": FREE,
        "stages": FREE,
        "features": FREE,
        "model": FREE,
        "mesh": Pairs(OneOf(AXES), whole(-1)),
        "seed": SEED,
    },
    student.LanguageModelConfig: {
        "texts": Each(FREE),
        "leave_out": Each(FREE),
        "order": whole(1, 10),
        "min_count": COUNT,
    },
    student.BeamConfig: {
        "beam": COUNT,
        "beam_tokens": COUNT,
        "beam_threshold": POSITIVE,
        "lm_weights": Each(real(0.0)),
        "word_bonuses": Each(ANY),
        "tuning_utterances": COUNT,
    },
    student.SelectionConfig: {
        "keep": Range(0.0, 1.0, above=True),
        "balanced": SHARE,
        "bucket_tokens": COUNT,
        "seed": SEED,
    },
    student.SplitConfig: {
        "corpus": FREE,
        "held_out": FREE,
        "pool": FREE,
        "labelled_share": Range(0.0, 1.0, above=True),
        "seed": SEED,
    },
    student.GenerationConfig: {
        "name": FileName(),
        "experiment": FREE,
        "selection": FREE,
        "start_from_previous": FREE,
        "teacher": FREE,
    },
    student.LoopConfig: {
        "name": FREE,
        "split": FREE,
        "generations": FREE,
        "language_model": FREE,
        "beam": FREE,
        "pieces": whole(0),
        "root": FREE,
    },
}


def check_settings(config: Any, key: str = "") -> None:
    """Raise UserError, naming the key, for a setting that is of another type, out of its range, or that contradicts
    another. config: any settings; key: where they stand in an experiment, such as "model.lm"."""
    for problem in itertools.chain(_wrong_values(config, type(config), FREE, key, None), _contradictions(config, key)):
        raise UserError(problem)


def rules_of(cls: type) -> dict[str, Any]:
    """Field → rule of a class of settings, those of its bases included."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        found |= RULES.get(base, {})
    return found


def _wrong_values(value: Any, hint: Any, rule: Any, key: str, default: Any) -> Iterator[str]:
    """A sentence for each value of another type or outside its rule. hint: its declared type. default: None if none."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if isinstance(hint, type) and not isinstance(value, hint):
            yield f"{key or 'The settings'} must be {hint.__name__}, not {type(value).__name__}."
            return
        yield from _wrong_fields(value, key)
    elif typing.get_origin(hint) is tuple:
        yield from _wrong_elements(value, typing.get_args(hint), rule, key)
    elif hint in TYPES or isinstance(value, float):
        yield from _wrong_value(value, hint, rule, key, default)
    elif isinstance(hint, type) and (dataclasses.is_dataclass(hint) or issubclass(hint, Choice)):
        yield f"{key}={shown(value)} must be {hint.__name__}, not {type(value).__name__}."


def _wrong_fields(config: Any, key: str) -> Iterator[str]:
    cls: Any = type(config)
    rules, hints = rules_of(cls), _hints(cls)
    for field in dataclasses.fields(config):
        value, place = getattr(config, field.name), at(key, field.name)
        default = None if field.default is dataclasses.MISSING else field.default
        yield from _wrong_values(value, hints.get(field.name), rules.get(field.name, FREE), place, default)


def _wrong_elements(value: Any, hints: tuple[Any, ...], rule: Any, key: str) -> Iterator[str]:
    if not isinstance(value, tuple):
        yield f"{key}={shown(value)} must be a tuple, not {type(value).__name__}."
        return
    inner = rule.rule if isinstance(rule, Each) else rule
    pair = typing.get_args(hints[0]) if typing.get_origin(hints[0]) is tuple else ()
    for i, element in enumerate(value):
        place = at(key, _label(element, i))
        if pair and (not isinstance(element, tuple) or len(element) != len(pair)):
            yield f"{place}={shown(element)} must be a tuple of {len(pair)} parts."
            return
        if pair:
            first, second = (rule.first, rule.second) if isinstance(rule, Pairs) else (FREE, FREE)
            yield from _wrong_values(element[0], pair[0], first, key, None)
            yield from _wrong_values(element[1], pair[1], second, place, None)
        else:
            yield from _wrong_values(element, hints[0], inner, place, None)
    if pair:
        yield from doubled([element[0] for element in value], key)


def _wrong_value(value: Any, hint: Any, rule: Any, key: str, default: Any) -> Iterator[str]:
    accepted = (int, float) if hint is float else hint
    if hint in TYPES and (not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool)):
        yield f"{key}={shown(value)} is not {TYPES[hint]} but {type(value).__name__}; change its type."
        return
    if isinstance(value, str) and "\0" in value:
        yield f"{key}={shown(value)} contains a NUL character; remove it."
    if rule is FREE and isinstance(value, (int, float)) and not isinstance(value, bool):
        rule = ANY if isinstance(value, float) else FREE
    problem = rule.problem(value)
    if problem:
        usual = "" if default in (None, "") or "; " in problem else f"; the default is {shown(default)}"
        yield f"{key}={shown(value)} {problem}{usual}."


def _contradictions(config: Any, key: str) -> Iterator[str]:
    """A sentence for each relation that does not hold, of these settings and all that they contain."""
    if isinstance(config, tuple):
        for i, element in enumerate(config):
            yield from _contradictions(element, at(key, _label(element, i)))
    elif dataclasses.is_dataclass(config) and not isinstance(config, type):
        for field in dataclasses.fields(config):
            yield from _contradictions(getattr(config, field.name), at(key, field.name))
        for cls, relation in RELATIONS:  # after those of its parts, which it may rely on
            if isinstance(config, cls):
                yield from relation(config, key)


def _label(element: Any, index: int) -> str:
    if isinstance(element, (str, int, float)) or element == ():
        return str(index)
    try:
        return element_name(element, index)
    except AttributeError:  # an element of the wrong type, about which there will be a sentence
        return str(index)


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except NameError:  # a class defined inside a function: its types are not known here
        return {}
