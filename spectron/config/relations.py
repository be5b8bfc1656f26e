"""Relations between settings: RELATIONS pairs a class with a function that yields a sentence for each that fails.

They are tested only once every setting by itself has passed its rule, so that types and ranges are as expected.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from spectron.config import noisy_student as student
from spectron.config import schema
from spectron.config.rules import at, doubled, number

SLACK = 1e-3  # seconds; sums of lengths such as 0.1 + 0.2 are not exact


def nearest_divisors(value: int, total: int) -> str:
    """The divisors of `total` next below and above `value`, as the end of a sentence."""
    small = [n for n in range(1, math.isqrt(total) + 1) if total % n == 0]
    divisors = sorted({*small, *(total // n for n in small)})
    below, above = [n for n in divisors if n < value], [n for n in divisors if n > value]
    found = [str(n) for n in (*below[-1:], *above[:1])]
    return f"the nearest that do are {found[0]} and {found[1]}" if len(found) == 2 else f"the nearest is {found[0]}"


def _heads(config: schema.ConformerConfig | schema.LMConfig, key: str, rotary: bool) -> Iterator[str]:
    """Heads must divide the width, into parts of an even width if positions are rotary."""
    dim, heads, parts = config.dim, config.num_heads, 2 if rotary else 1
    if dim % parts:
        yield f"{at(key, 'dim')}={dim} is odd, and rotary positions need an even one; the nearest is {dim + 1}."
    elif dim % (heads * parts):
        even = " into heads of an even width, which rotary positions need" if dim % heads == 0 else ""
        options = nearest_divisors(heads, dim // parts)
        yield f"{at(key, 'num_heads')}={heads} does not divide {at(key, 'dim')}={dim}{even}; {options}."


def conformer(config: schema.ConformerConfig, key: str) -> Iterator[str]:
    """Heads, whose positions are rotary."""
    yield from _heads(config, key, rotary=True)


def lm(config: schema.LMConfig, key: str) -> Iterator[str]:
    """Heads, key and value heads, and the table of learned positions."""
    rotary = config.positions == "rotary"
    if not config.head_dim:
        yield from _heads(config, key, rotary)
    elif rotary and config.head_dim % 2:
        width = f"{at(key, 'head_dim')}={config.head_dim}"
        yield f"{width} is odd, and rotary positions need an even one; the nearest is {config.head_dim + 1}."
    heads, kv_heads = config.num_heads, config.num_kv_heads
    if heads % kv_heads:
        options = nearest_divisors(kv_heads, heads)
        yield f"{at(key, 'num_kv_heads')}={kv_heads} does not divide {at(key, 'num_heads')}={heads}; {options}."
    if config.positions == "learned" and not config.max_positions:
        yield f"{at(key, 'positions')}=learned needs {at(key, 'max_positions')}, the size of their table; set it."


def model(config: schema.ModelConfig, key: str) -> Iterator[str]:
    """The number formats of fused kernels."""
    if config.lm.attention == "cudnn" and config.compute_dtype == "float32":
        yield f"{at(key, 'lm.attention')}=cudnn needs {at(key, 'compute_dtype')}=bfloat16 or float16, not float32."


def features(config: schema.FeatureConfig, key: str) -> Iterator[str]:
    """Window and hop in samples, and the order of the frequencies."""
    for name, samples, least in (("hop_seconds", config.hop, 1), ("window_seconds", config.window, 2)):
        if samples < least:
            value = getattr(config, name)
            yield (
                f"{at(key, name)}={value} holds {samples} samples at {config.sample_rate} Hz; "
                f"the smallest is {least / config.sample_rate:.3g}."
            )
    half = config.sample_rate / 2
    if config.high_hz > half:
        yield (
            f"{at(key, 'high_hz')}={number(config.high_hz)} is above half of {at(key, 'sample_rate')}="
            f"{config.sample_rate}; the nearest is {number(half)}."
        )
    if config.low_hz >= config.high_hz:
        yield (
            f"{at(key, 'low_hz')}={number(config.low_hz)} must be below {at(key, 'high_hz')}={number(config.high_hz)}; "
            f"the default is 20."
        )


def words(config: schema.WordsConfig, key: str) -> Iterator[str]:
    """Words are what lies between spaces."""
    yield from doubled(config.words, at(key, "words"))
    for word in config.words:
        if word.split() != [word]:
            yield f"{at(key, 'words')} holds {word!r}, which is not one word; words contain no spaces."


def characters(config: schema.CharactersConfig, key: str) -> Iterator[str]:
    """Characters are single."""
    yield from doubled(config.characters, at(key, "characters"))
    for character in config.characters:
        if len(character) != 1:
            yield f"{at(key, 'characters')} holds {character!r}, which is not one character; list single characters."


def data(config: schema.DataConfig, key: str) -> Iterator[str]:
    """Names of tasks and mixtures, and the lengths of a batch."""
    tasks = [task.name for task in config.tasks]
    yield from doubled([*tasks, *(mixture.name for mixture in config.mixtures)], f"{at(key, 'tasks')} and mixtures")
    for mixture in config.mixtures:
        if not mixture.rates:
            yield f"{at(key, 'mixtures')}.{mixture.name}.rates is empty; name at least one task and its rate."
    yield from _buckets(config, key)


def _buckets(config: schema.DataConfig, key: str) -> Iterator[str]:
    """Buckets, and their longest texts, rise up to max_seconds and max_tokens."""
    seconds, tokens = config.buckets, config.bucket_tokens
    if tokens and len(tokens) != len(seconds):
        yield (
            f"{at(key, 'bucket_tokens')} has {len(tokens)} values for {len(seconds)} buckets; "
            f"give one for each, or none."
        )
    rising = all(a < b for a, b in itertools.pairwise(seconds)) and list(tokens) == sorted(tokens)
    if not rising or max((*seconds, 0)) > config.max_seconds or max((*tokens, 0)) > config.max_tokens:
        yield (
            f"{at(key, 'buckets')} {seconds} and bucket_tokens {tokens} must rise from above 0 to at most "
            f"max_seconds ({number(config.max_seconds)}) and max_tokens ({config.max_tokens})."
        )


def learning_rate(config: schema.LearningRateConfig, key: str) -> Iterator[str]:
    """A multiplier of 0 would train nothing, and still cost memory and time."""
    for prefix, value in config.lr_multipliers:
        if value == 0:
            yield (
                f"{at(key, 'lr_multipliers')}: 0 of {prefix!r} is not above 0; to freeze a part, set its stage's "
                f'optimizers=[["{prefix}", {{"kind": "frozen"}}]].'
            )


def stage(config: schema.StageConfig, key: str) -> Iterator[str]:
    """A stage has streams."""
    if not config.streams:
        yield f"{at(key, 'streams')} is empty; name at least one objective and mixture."


def experiment(config: schema.Experiment, key: str) -> Iterator[str]:
    """Sample rates, lengths in frames, names of stages, and the mesh."""
    yield from doubled([stage.name for stage in config.stages], at(key, "stages"))
    encoder, rate = config.model.encoder, config.features.sample_rate
    if isinstance(encoder, schema.ConformerConfig) and encoder.features.sample_rate != rate:
        yield (
            f"{at(key, 'model.encoder.features.sample_rate')}={encoder.features.sample_rate} differs from "
            f"{at(key, 'features.sample_rate')}={rate}; set both to one rate."
        )
    per_step, lengths = config.model.frames.frames_per_step, config.data
    if lengths.max_seconds < config.features.hop_seconds:
        yield (
            f"{at(key, 'data.max_seconds')}={lengths.max_seconds} is less than a frame; the smallest is "
            f"features.hop_seconds={config.features.hop_seconds}."
        )
    frames = config.features.num_frames(round(lengths.max_continuation_seconds * rate))
    if frames < per_step:
        near = f"the nearest is {frames}" if frames else "raise data.max_continuation_seconds"
        yield (
            f"{at(key, 'model.frames.frames_per_step')}={per_step} is more than the {frames} frames of "
            f"data.max_continuation_seconds={lengths.max_continuation_seconds}; {near}."
        )
    sizes = [size for _, size in config.mesh]
    if 0 in sizes or sizes.count(-1) > 1:
        yield f"{at(key, 'mesh')}: sizes must be 1 or more, and one of them may be -1 for what is left, not {sizes}."


def recipe(config: schema.Experiment, key: str) -> Iterator[str]:
    """What a config file's experiment must fulfil besides RELATIONS: that it uses its data.

    Checkpoints and callers need not: evaluation may ask for shorter answers, and callers may have batches of their own.
    """
    lengths = config.data
    longest = lengths.max_prompt_seconds + lengths.max_continuation_seconds
    if lengths.max_seconds > longest + SLACK:
        yield (
            f"{at(key, 'data.max_seconds')}={number(lengths.max_seconds)} is more than max_prompt_seconds + "
            f"max_continuation_seconds, so that no recording of that length is used; the nearest is "
            f"{number(round(longest, 6))}, or raise those."
        )
    tasks = [task.name for task in config.data.tasks]
    for mixture in config.data.mixtures:
        for task, _ in mixture.rates:
            if task not in tasks:
                yield (
                    f"{at(key, f'data.mixtures.{mixture.name}.rates')} names task {task!r}, which data.tasks lacks; "
                    f"tasks: {', '.join(tasks) or 'none'}."
                )
    known = [mixture.name for mixture in config.data.mixtures] + tasks
    for each in config.stages if tasks else ():
        for stream in each.streams:
            if stream.mixture not in known:
                yield (
                    f"{at(key, f'stages.{each.name}.streams.{stream.key}.mixture')}: There is no mixture or task "
                    f"{stream.mixture!r} in data; known: {', '.join(known)}."
                )
        if each.evaluate_on and each.evaluate_on not in tasks:
            yield (
                f"{at(key, f'stages.{each.name}.evaluate_on')}: evaluate_on={each.evaluate_on!r} is no task; "
                f"known: {', '.join(tasks)}."
            )


def loop(config: student.LoopConfig, key: str) -> Iterator[str]:
    """Generations are folders of one work folder, beside the folder "data"."""
    names = [generation.name for generation in config.generations]
    yield from doubled(names, at(key, "generations"))
    if "data" in names:
        yield f"{at(key, 'generations')}: none may be named 'data', which is the folder of the recordings; rename it."


# A class defined outside this package may append its own, and its rows to RULES (checks.py).
RELATIONS: list[tuple[type, Callable[[Any, str], Iterator[str]]]] = [
    (schema.ConformerConfig, conformer),
    (schema.LMConfig, lm),
    (schema.ModelConfig, model),
    (schema.FeatureConfig, features),
    (schema.WordsConfig, words),
    (schema.CharactersConfig, characters),
    (schema.DataConfig, data),
    (schema.LearningRateConfig, learning_rate),
    (schema.StageConfig, stage),
    (schema.Experiment, experiment),
    (student.LoopConfig, loop),
]
