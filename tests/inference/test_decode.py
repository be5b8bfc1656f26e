"""Decoding in one loop: equal to the uncached model, and every slot as if it were alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import tiny

from spectron.audio.features import denormalise, log_mel, normalise
from spectron.config import AdamConfig, StackMLPConnectorConfig, StageConfig
from spectron.inference.api import Spectron
from spectron.inference.decode import FREE, decode, decode_until_done
from spectron.inference.decode_config import DecodeConfig, MaxLengths, trained_lengths
from spectron.objectives.joint import feedback, go_frames, make_model
from spectron.types import Sequence, UserError, length_mask

STATISTICS = tiny.statistics()


@pytest.fixture(scope="module")
def generator():
    return make_generator(tiny.experiment(prenet_dropout=0.0))


def make_generator(experiment, stop_bias=None):
    model = make_model(experiment)
    prompt = tiny.sequence([9, 20], 8)
    samples, lengths = tiny.speech([9 * 200, 20 * 200])
    tokens = Sequence(jnp.full((2, 5), 4), jnp.ones((2, 5), bool))
    steps = feedback(tiny.sequence([7, 9], 8), go_frames(prompt, experiment.model.frames), 2)
    params = tiny.unbox(jax.jit(model.init)(jax.random.key(0), samples, lengths, STATISTICS, tokens, steps)["params"])
    if stop_bias is not None:
        params["stop"]["bias"] = jnp.full_like(params["stop"]["bias"], stop_bias)
    return Spectron(params, experiment, STATISTICS)


def prompts(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(-4000, 4000, rng.integers(2000, 4001)).astype(np.int16) for _ in range(count)]


def decoded(generator, samples, numbers, seed, batch_size, **changes):
    """One static batch in one loop, padded to batch_size slots."""
    padded = np.zeros((batch_size, generator.prompt_size), np.int16)
    lengths = np.zeros(batch_size, np.int32)
    numbers = np.pad(np.asarray(numbers, np.int32), (0, batch_size - len(numbers)))
    for i, each in enumerate(samples):
        padded[i, : len(each)], lengths[i] = each, len(each)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)
    config = generator.config_with(**changes)
    return jax.device_get(decode(generator.weights, STATISTICS, padded, lengths, keys, config=config))


def other_parts():
    """A stacking connector, a causal prefix, and an LM with biases, LayerNorm and learned positions."""
    experiment = tiny.experiment(prenet_dropout=0.0)
    model = dataclasses.replace(
        experiment.model,
        connector=StackMLPConnectorConfig(stack=2, hidden=12),
        lm=tiny.FAMILIES["gpt2"],
        bidirectional_prefix=False,
    )
    return make_generator(dataclasses.replace(experiment, model=model))


@pytest.mark.parametrize("other", [False, True])
def test_the_loop_writes_what_the_uncached_model_would(generator, other):
    """Feed the decoded text and frames back through teacher forcing: its best tokens and frames must be the same."""
    generator = other_parts() if other else generator
    experiment, samples = generator.experiment, prompts(4)
    out = decoded(generator, samples, range(4), 0, 4)
    padded = np.zeros((4, generator.prompt_size), np.int16)
    for i, each in enumerate(samples):
        padded[i, : len(each)] = each
    lengths = jnp.asarray([len(s) for s in samples])
    mel = normalise(log_mel(padded, lengths, experiment.features), STATISTICS)
    ends = np.where((out.text == 1).any(axis=1), (out.text == 1).argmax(axis=1) + 1, out.text.shape[1])
    text_mask = length_mask(ends, out.text.shape[1])
    tokens = np.concatenate([np.full((4, 1), 2), out.text[:, :-1]], axis=1)
    frames = normalise(Sequence(jnp.asarray(out.frames), length_mask(out.num_frames, out.frames.shape[1])), STATISTICS)
    steps = feedback(frames, go_frames(mel, experiment.model.frames), 2)
    model, variables = make_model(experiment), {"params": generator.params}
    written = Sequence(jnp.asarray(tokens), jnp.asarray(text_mask))
    forced = model.apply(variables, jnp.asarray(padded), lengths, STATISTICS, written, steps)
    best = model.apply(variables, forced.text_hidden, method="logits").argmax(axis=-1)
    np.testing.assert_array_equal(np.where(text_mask, best, 0), np.where(text_mask, out.text, 0))
    spoken = np.asarray(denormalise(forced.frames, STATISTICS))
    for i, count in enumerate(out.num_frames):
        np.testing.assert_allclose(spoken[i, :count], out.frames[i, :count], atol=1e-3)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_an_answer_in_a_batch_equals_the_answer_alone(dropout):
    generator = make_generator(tiny.experiment(prenet_dropout=dropout))
    samples = prompts(5)
    together = decoded(generator, samples, range(5), 3, 5)
    for i, sample in enumerate(samples):
        alone = decoded(generator, [sample], [i], 3, 1)
        np.testing.assert_array_equal(alone.text[0], together.text[i])
        assert alone.num_frames[0] == together.num_frames[i]
        np.testing.assert_allclose(alone.frames[0], together.frames[i], atol=1e-3)


def test_seeds_matter_only_with_dropout(generator):
    sample = prompts(1)
    a, b = (decoded(generator, sample, [0], seed, 1) for seed in (0, 1))
    np.testing.assert_array_equal(a.frames, b.frames)
    noisy = make_generator(tiny.experiment(prenet_dropout=0.5))
    a, b = (decoded(noisy, sample, [0], seed, 1) for seed in (0, 1))
    assert (np.asarray(a.frames) != np.asarray(b.frames)).any()


def test_stop_head_and_limit_end_an_answer():
    samples = prompts(2)
    experiment = tiny.experiment()
    talkative = make_generator(experiment, stop_bias=-1e3).generate(samples)
    most = trained_lengths(experiment).frame_steps * experiment.model.frames.frames_per_step
    assert [(a.stopped_by, len(a.frames)) for a in talkative] == [("maximum length", most)] * 2
    curt = make_generator(experiment, stop_bias=1e3).generate(samples)
    assert [(a.stopped_by, len(a.frames)) for a in curt] == [("stop head", 1)] * 2
    assert all(len(a.samples) == len(a.frames) * experiment.features.hop for a in talkative + curt)


def test_padding_of_a_batch_is_not_decoded(generator):
    out = decoded(generator, prompts(1), range(4), 0, 4)
    assert (np.asarray(out.num_frames[1:]) == 0).all() and (np.asarray(out.text[1:]) == 0).all()


def test_answers_come_in_order_whatever_the_batch_size(generator):
    samples = prompts(5)
    one, many = generator.generate(samples, batch_size=2), generator.generate(samples, batch_size=5)
    for a, b in zip(one, many, strict=True):
        assert a.transcript == b.transcript and len(a.frames) == len(b.frames)
        np.testing.assert_allclose(a.frames, b.frames, atol=1e-3)


def test_a_prompt_too_long_is_named(generator):
    with pytest.raises(UserError, match=r"0\.30 s is longer than the 0\.25 s"):
        generator.generate([np.ones(4800, np.int16)])


def test_a_checkpoint_of_another_stage_is_refused(generator):
    with pytest.raises(UserError, match="prenet"):
        Spectron({"encoder": generator.params["encoder"]}, generator.experiment, STATISTICS)


def test_text_ends_at_the_limit_of_tokens(generator):
    out = decoded(generator, prompts(1), [0], 0, 1, max_lengths=MaxLengths(text_tokens=2, frame_steps=10))
    assert out.text.shape == (1, 2) and out.num_tokens[0] <= 2 and out.num_frames[0] >= 1


def test_a_forced_text_is_written_and_spoken():
    generator, samples = make_generator(tiny.experiment(prenet_dropout=0.0)), prompts(4)
    free = generator.generate(samples)
    text = {1: [5, 7, 1], 2: [1], 3: [6]}  # a text of two words, none at all, and a first word with a free end
    said = generator.generate(samples, forced=[text.get(i, []) for i in range(4)])
    assert said[0].ids == free[0].ids and (said[0].frames == free[0].frames).all()
    assert (said[1].ids, said[1].transcript) == ((5, 7), "one three")
    assert (said[2].ids, said[2].transcript) == ((), "")
    assert said[3].ids[0] == 6
    assert len(said[2].frames) != len(free[2].frames) or (said[2].frames != free[2].frames).any()
    own = generator.generate(samples[:1], forced=[[*free[0].ids, 1][:5]])[0]
    assert own.ids == free[0].ids
    np.testing.assert_allclose(own.frames, free[0].frames, atol=1e-3, err_msg="forced to its own text")
    with pytest.raises(UserError, match="6 tokens is longer than the 5"):
        generator.generate(samples, forced=[[4] * 6])


def test_numbered_prompts_get_the_same_answer_in_any_batch():
    generator = make_generator(tiny.experiment(prenet_dropout=0.5))
    samples = prompts(4)
    together = generator.generate(samples, seed=3, numbers=[7, 2, 9, 4], batch_size=4)
    some = generator.generate([samples[3], samples[1]], seed=3, numbers=[4, 2], batch_size=2)
    for a, b in zip((together[3], together[1]), some, strict=True):
        assert a.transcript == b.transcript and len(a.frames) == len(b.frames)
        np.testing.assert_allclose(a.frames, b.frames, atol=1e-3)
    other = generator.generate(samples[:1], seed=3, numbers=[8])[0]
    assert len(other.frames) != len(together[0].frames) or (other.frames != together[0].frames).any()


def test_text_alone_has_no_frames(generator):
    """The same text as with speech, and neither a frame step nor a sample."""
    samples = prompts(3)
    spoken = generator.generate(samples)
    assert generator.generate_text(samples) == [answer.transcript for answer in spoken]
    config = generator.config_with(output_streams=("text",))
    assert config.cache_length() == generator.decode_config.cache_length() - config.max_lengths.frame_steps
    model = Spectron(generator.params, generator.experiment, STATISTICS, decode_config=config)
    for answer, other in zip(model.generate(samples), spoken, strict=True):
        assert answer.ids == other.ids and answer.frames.shape == (0, 8) and len(answer.samples) == 0
        assert answer.stopped_by == ("maximum length" if len(other.ids) == config.text_tokens else "stop id")
    assert [piece.text for piece in model.stream(samples[0])] == [spoken[0].transcript]


def test_other_output_streams(generator):
    frames_first = decoded(generator, prompts(2), [0, 1], 0, 2, output_streams=("frames", "text"))
    frames_alone = decoded(generator, prompts(2), [0, 1], 0, 2, output_streams=("frames",))
    np.testing.assert_array_equal(frames_alone.num_frames, frames_first.num_frames)
    np.testing.assert_allclose(frames_alone.frames, frames_first.frames, atol=1e-5)
    assert frames_alone.text.shape == (2, 0) and (frames_first.num_tokens > 0).all()


def test_any_of_several_stop_ids_ends_the_text(generator):
    samples = prompts(1)
    forced = [[5, 7, FREE]]
    (free,) = generator.generate(samples, forced=forced)
    config = generator.config_with(stop_ids=(1, 7))
    (answer,) = Spectron(generator.params, generator.experiment, STATISTICS, decode_config=config).generate(
        samples, forced=forced
    )
    assert free.ids[:2] == (5, 7) and answer.ids == (5,)
    with pytest.raises(UserError, match="Stop id 99 is not in the vocabulary"):
        DecodeConfig.from_experiment(generator.experiment, stop_ids=(1, 99))


def test_token_0_can_be_forced_and_a_token_in_the_middle_left_free(generator):
    samples = prompts(1)
    (free,) = generator.generate(samples)
    (answer,) = generator.generate(samples, forced=[[0, 5]])
    assert answer.ids[:2] == (0, 5)
    (middle,) = generator.generate(samples, forced=[[FREE, 6]])
    assert middle.ids[1] == 6 and middle.ids[0] == (*free.ids, 1)[0]
    for wrong in (-2, generator.decode_config.vocab_size):
        with pytest.raises(UserError, match=f"Forced token {wrong} is not in the vocabulary"):
            generator.generate(samples, forced=[[wrong]])


def test_answers_may_be_longer_than_in_training():
    generator = make_generator(tiny.experiment(prenet_dropout=0.0), stop_bias=-1e3)
    (trained,) = generator.generate(prompts(1))
    longer = MaxLengths(text_tokens=7, frame_steps=14)
    (answer,) = generator.generate(prompts(1), max_lengths=longer)
    assert len(trained.frames) == 20 and len(answer.frames) == 28
    with pytest.raises(UserError, match="no room for frames"):
        generator.generate(prompts(1), max_lengths=MaxLengths(text_tokens=3, frame_steps=0))


def test_settings_of_training_do_not_recompile(generator):
    """What decoding reads is equal, so its programs are compiled once."""
    experiment, sample = generator.experiment, prompts(1)[0]
    stage = StageConfig("joint", (), optimizer=AdamConfig(learning_rate=0.5))
    other = dataclasses.replace(experiment, stages=(stage,), seed=7, mesh=(("data", 1),))
    assert DecodeConfig.from_experiment(other) == DecodeConfig.from_experiment(experiment)
    assert hash(DecodeConfig.from_experiment(other)) == hash(DecodeConfig.from_experiment(experiment))
    generator.generate(sample)
    before = decode_until_done._cache_size()
    Spectron(generator.params, other, STATISTICS).generate(sample)
    assert decode_until_done._cache_size() == before
