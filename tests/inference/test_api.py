"""The Python API, and the engine, which refills slots while others go on."""

import jax
import numpy as np
import pytest
from inference.test_decode import decoded, make_generator, prompts
from models import tiny

import spectron
from spectron.audio import wav
from spectron.inference import decode
from spectron.inference.engine import PROMPT_BUCKETS, Engine, Request, padded_length
from spectron.types import UserError


@pytest.fixture(scope="module")
def model():
    return make_generator(tiny.experiment(prenet_dropout=0.5))


def test_the_api_is_at_the_top():
    assert spectron.Spectron.__name__ == "Spectron"
    with pytest.raises(AttributeError, match="Spektron"):
        _ = spectron.Spektron


def test_continuous_batching_gives_the_answers_of_a_static_batch(model):
    """Eleven prompts through three slots."""
    samples = prompts(11)
    whole = decoded(model, samples, range(11), 3, 11)
    engine = model.engine(3, seed=3)
    answers = {request.tag: out for request, out in engine.answers(model.requests(samples))}
    assert sorted(answers) == list(range(11)) and not engine.busy
    for i, out in answers.items():
        np.testing.assert_array_equal(out.text, whole.text[i])
        assert out.num_frames == whole.num_frames[i] and out.stopped == whole.stopped[i]
        np.testing.assert_allclose(out.frames[: out.num_frames], whole.frames[i, : out.num_frames], atol=1e-3)


def test_an_answer_is_the_same_to_the_bit_beside_any_other(model):
    """In another order, in other slots, beside other answers: what resuming a killed job relies on."""
    samples = prompts(20)
    requests = model.requests(samples)
    first = {r.tag: out for r, out in model.engine(8, seed=1).answers(requests)}
    again = {r.tag: out for r, out in model.engine(8, seed=1).answers([*requests[13:], *requests[:13:-1]])}
    for i in range(14, 20):
        for one, other in zip(first[i], again[i], strict=True):
            np.testing.assert_array_equal(one, other)


def test_free_slots_are_filled_at_once(model):
    requests = model.requests(prompts(9))
    engine = model.engine(4)
    slots = [engine.insert(request, engine.prefill(request)) for request in requests[:4]]
    assert sorted(slots) == [0, 1, 2, 3] and engine.full
    waiting, ended = requests[4:], []
    while engine.busy:
        done = engine.decode()
        assert done, "decode returned although no answer was done"
        ended += [request.tag for request, _ in done]
        while waiting and not engine.full:
            engine.insert(waiting[0], engine.prefill(waiting.pop(0)))
    assert sorted(ended) == list(range(9)) and engine.decode() == []


def test_nan_left_in_a_slot_does_not_reach_its_next_answer(model):
    """Masked values are multiplied by zero, and NaN times zero is NaN."""
    (request,) = model.requests(prompts(1))
    clean, dirty = model.engine(1), model.engine(1)
    dirty.state = jax.tree.map(lambda x: x * np.nan if x.dtype == np.float32 else x, dirty.state)
    ((_, expected),), ((_, out),) = clean.answers([request]), dirty.answers([request])
    for one, other in zip(expected, out, strict=True):
        np.testing.assert_array_equal(one, other)


def test_prompts_are_padded_to_a_few_lengths():
    sizes = {padded_length(size, 4000, 200) for size in range(1, 4001)}
    assert sizes == {1000, 2000, 3000, 4000}
    assert all(padded_length(size, 4100, 200) >= size for size in range(1, 4101))
    with pytest.raises(ValueError, match="4101 samples is longer"):
        padded_length(4101, 4100, 200)


def test_one_program_decodes_prompts_of_all_lengths(model):
    rng, size = np.random.default_rng(0), model.prompt_size
    samples = [
        rng.integers(-9000, 9000, length).astype(np.int16) for length in np.linspace(size // 5, size, 20, dtype=int)
    ]
    programs = (decode.decode_until_done, decode.insert, decode.prefill)
    before = [program._cache_size() for program in programs]
    assert len(list(model.engine(7).answers(model.requests(samples)))) == 20
    decoded, inserted, prefilled = (now._cache_size() - then for now, then in zip(programs, before, strict=True))
    assert (decoded, inserted) == (1, PROMPT_BUCKETS) and prefilled <= PROMPT_BUCKETS  # some were compiled before


def test_the_padding_of_a_prompt_does_not_matter(model):
    """Its bucket against the longest."""
    sample = prompts(1)[0][:1500]
    wide = decoded(model, [sample], [0], 0, 1)
    answer = model.generate(sample)
    assert answer.ids == tuple(i for i in wide.text[0].tolist() if i > 1) and len(answer.frames) == wide.num_frames[0]
    np.testing.assert_allclose(answer.frames, wide.frames[0, : len(answer.frames)], atol=1e-3)


@pytest.mark.parametrize("stop_bias", [None, -1e3])
def test_a_streamed_answer_is_the_answer_sample_for_sample(stop_bias):
    experiment = tiny.experiment(prenet_dropout=0.5)
    data = {"max_seconds": 4.0, "max_continuation_seconds": 3.5, "max_tokens": 40}
    model = make_generator(tiny.with_data(experiment, **data), stop_bias)
    for seed, sample in enumerate(prompts(2, seed=5)):
        answer, pieces = model.generate(sample, seed), list(model.stream(sample, seed))
        assert "".join(piece.text for piece in pieces) == answer.transcript
        np.testing.assert_array_equal(np.concatenate([piece.samples for piece in pieces]), answer.samples)
        if stop_bias:
            sounds = [len(piece.samples) for piece in pieces if len(piece.samples)]
            assert len(sounds) > 2, "it came in one piece"
            first = next(i for i, piece in enumerate(pieces) if len(piece.samples))
            assert any(piece.text for piece in pieces[:first])


def test_generate_takes_files_floats_and_lists(model, tmp_path):
    sample = prompts(1)[0]
    wav.write(tmp_path / "a.wav", np.tile(sample, 2)[:4000], 16_000)
    with pytest.raises(UserError, match=r"a\.wav' lasts 0\.25 s, too short"):
        model.generate(tmp_path / "a.wav")
    answer = model.generate(sample)
    np.testing.assert_array_equal(model.generate(sample.astype(np.float32) / 32768).samples, answer.samples)
    (listed,) = model.generate([sample])
    assert listed.transcript == answer.transcript


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros((2, 100), np.int16), r"shape \(2, 100\); give one channel"),
        (np.zeros(100, np.int64), "int64; give int16"),
        (np.zeros(4001, np.int16), "longer than the 0.25 s"),
        (np.full(3000, np.nan, np.float32), "NaN"),
        (np.zeros(0, np.int16), "no samples"),
        (np.ones(199, np.int16), "199 samples is shorter than a frame"),
        ("nowhere.wav", "nowhere.wav"),
    ],
)
def test_wrong_audio_is_said_in_a_sentence(model, audio, message):
    with pytest.raises(UserError, match=message):
        model.generate(audio)
    with pytest.raises(UserError, match=message):
        list(model.stream(audio))


def test_wrong_numbers_are_said_in_a_sentence(model):
    with pytest.raises(UserError, match="batch of 0 slots"):
        model.generate(prompts(2), batch_size=0)
    with pytest.raises(UserError, match="2 prompts have 1 numbers"):
        model.generate(prompts(2), numbers=[4])
    assert model.generate([]) == []


def test_an_engine_lives_on_the_device_of_its_weights(model):
    device = jax.devices()[-1]
    weights = jax.device_put(model.weights, device)
    engine = Engine(weights, model.statistics, model.decode_config, num_slots=2)
    assert jax.tree.leaves(engine.state)[0].devices() == {device}
    answers = list(engine.answers([Request(prompts(1)[0], 0)]))
    assert len(answers) == 1 and jax.tree.leaves(engine.state)[0].devices() == {device}
