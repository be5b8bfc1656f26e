"""Answers are the same whatever their batch, and what was decoded once is not decoded again."""

import jax
import numpy as np
import pytest

from spectron.evaluation.suites.generation import Generated, generate_all, pack, unpack
from spectron.types import Answer, UserError
from spectron.utils.chunk_cache import ChunkCache, checksum


class Speaker:
    """Stands for a model: says which row it is, loudly; may die."""

    def __init__(self, dies_at=-1):
        self.dies_at, self.rows = dies_at, []

    def generate(self, prompts, seed, batch_size, numbers, forced):
        rows = numbers
        assert len(prompts) == len(rows) == len(forced) <= batch_size
        if self.dies_at in rows:
            raise KeyboardInterrupt
        self.rows += rows
        draws = [np.asarray(jax.random.key_data(jax.random.fold_in(jax.random.key(seed), i)))[1] for i in rows]
        return [
            Answer(f"row {i} {draw}", np.zeros((1, 1)), np.full(10 + i, i, np.int16), "stop head", (4, *ids))
            for i, draw, ids in zip(rows, draws, forced, strict=True)
        ]


def same(a, b):
    return all(x.transcript == y.transcript and (x.samples == y.samples).all() for x, y in zip(a, b, strict=True))


PROMPTS = [np.full(5, i, np.int16) for i in range(7)]


def test_packed_answers_come_back_as_they_were():
    heard = np.array([[-0.1, 2.5, 1e-9]], np.float32)
    said = [
        Generated("naïve\n", np.array([1, -32768], np.int16), True, (4, 5), heard),
        Generated("", np.zeros(0, np.int16), False),
        Generated("x", np.array([7], np.int16), False, (), heard[:0]),
    ]
    for before, after in zip(said, unpack(pack(said)), strict=True):
        assert (before.transcript, before.stopped, before.ids) == (after.transcript, after.stopped, after.ids)
        np.testing.assert_array_equal(before.samples, after.samples)
        np.testing.assert_array_equal(before.frames, after.frames)
        assert after.samples.dtype == np.int16 and after.frames.dtype == np.float32


def test_a_killed_run_goes_on_and_says_the_same(tmp_path):
    whole = generate_all(Speaker(), PROMPTS, tmp_path / "whole", {"checkpoint": "a"}, 3, 2)
    first, second = Speaker(dies_at=4), Speaker()
    with pytest.raises(KeyboardInterrupt):
        generate_all(first, PROMPTS, tmp_path / "cut", {"checkpoint": "a"}, 3, 2)
    again = generate_all(second, PROMPTS, tmp_path / "cut", {"checkpoint": "a"}, 3, 2)
    assert first.rows + second.rows == list(range(7))
    assert same(whole, again)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"plan": {"checkpoint": "b"}}, "checkpoint"),
        ({"seed": 4}, "seed"),
        ({"batch_size": 3}, "batch_size"),
        ({"prompts": PROMPTS[:6]}, "set of prompts"),
        ({"forced": [[1]] * 7}, "forced text"),
    ],
)
def test_what_changes_the_answers_is_noticed(tmp_path, changes, named):
    given = {"prompts": PROMPTS, "plan": {"checkpoint": "a"}, "seed": 3, "batch_size": 2}
    generate_all(Speaker(), folder=tmp_path, **given)
    with pytest.raises(UserError, match=f"another {named} "):
        generate_all(Speaker(), folder=tmp_path, **{**given, **changes})


def test_a_judge_is_asked_once(tmp_path):
    asked = []

    def work(numbers):
        asked.extend(numbers)
        return [{"of": i, "third": i / 3} for i in numbers]

    for _ in range(2):
        answers = ChunkCache(tmp_path, {"judge": "x"}).records(5, 2, work, "judging")
        assert answers == [{"of": i, "third": i / 3} for i in range(5)]
    assert asked == list(range(5))


def test_a_checksum_knows_places():
    assert len({checksum(x) for x in ([b"ab", b"c"], [b"a", b"bc"], [b"c", b"ab"], [b"abc"])}) == 4
