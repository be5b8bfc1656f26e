import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron.config import check_settings
from spectron.corpora.cutting import CuttingConfig, cut, tidy
from spectron.types import UserError

RATE = 100  # samples a second: the arithmetic is the same


def flat(start, end):
    return np.zeros((end - start) // 8, np.float32)


def pieces_of(spans):
    return [piece for span in spans for piece in span.pieces]


def seconds(spans):
    return [[(a / RATE, b / RATE) for a, b in span.pieces] for span in spans]


@st.composite
def chapters(draw):
    at, voiced = 0, []
    for _ in range(draw(st.integers(0, 12))):
        start = at + draw(st.integers(1, 600))
        at = start + draw(st.integers(1, 5000))
        voiced.append((start, at))
    return voiced, at + draw(st.integers(0, 500))


@given(chapters(), st.booleans(), st.sampled_from([0.0, 0.24, 1.0]))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_nothing_voiced_is_lost_or_said_twice_and_nothing_is_too_long(chapter, drop_silence, padding):
    voiced, total = chapter
    config = CuttingConfig(drop_silence=drop_silence, padding_seconds=padding)
    spans = cut(voiced, total, RATE, config, flat)
    assert all(span.samples <= 16 * RATE for span in spans)
    pieces = pieces_of(spans)
    assert all(a < b for a, b in pieces)
    assert all(b <= c for (_, b), (c, _) in itertools.pairwise(pieces)), "they overlap"
    kept = np.zeros(total, bool)
    for a, b in pieces:
        assert 0 <= a < b <= total
        kept[a:b] = True
    speech = np.zeros(total, bool)
    for a, b in voiced:
        speech[a:b] = True
    assert not (speech & ~kept).any()
    if drop_silence:
        assert not (kept & ~speech).any()


@given(chapters())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_dropping_silence_groups_spans_as_the_official_cutter_does(chapter):
    voiced, total = chapter
    config = CuttingConfig(15, 1000, 1, drop_silence=True, max_pause_seconds=1e9)  # a long span stays whole there
    groups, length = [], 0
    for a, b in voiced:
        if groups and length + b - a <= 15 * RATE:
            groups[-1].append((a, b))
        else:
            groups.append([(a, b)])
            length = 0
        length += b - a
    assert [list(span.pieces) for span in cut(voiced, total, RATE, config, flat)] == groups


def test_silence_between_spans_is_kept():
    config = CuttingConfig(padding_seconds=0)
    spans = cut([(100, 500), (600, 1000), (1100, 1900)], 2000, RATE, config, flat)
    assert seconds(spans) == [[(1.0, 10.0)], [(11.0, 19.0)]]


def test_a_long_pause_ends_an_utterance():
    spans = cut([(0, 300), (700, 1000)], 1000, RATE, CuttingConfig(padding_seconds=0), flat)
    assert seconds(spans) == [[(0.0, 3.0)], [(7.0, 10.0)]]


def test_padding_is_silence_and_shared_by_neighbours():
    spans = cut([(10, 600), (1000, 1500), (1520, 2500)], 2510, RATE, CuttingConfig(padding_seconds=0.24), flat)
    assert seconds(spans) == [[(0.0, 6.24)], [(9.76, 15.1)], [(15.1, 25.1)]]


def test_a_span_that_is_too_long_is_cut_where_it_is_quietest():
    asked = []

    def loudness(start, end):
        asked.append((start, end))
        levels = np.zeros((end - start) // 8, np.float32)
        levels[(1403 - start) // 8] = -30
        return levels

    config = CuttingConfig(padding_seconds=0)
    spans = cut([(0, 2600)], 2600, RATE, config, loudness)
    assert len(spans) == 2
    assert spans[0].pieces[0][1] == pytest.approx(1403, abs=8)
    assert asked == [(1200, 1600)], "only the last seconds before the limit are listened to"


@pytest.mark.parametrize("length", range(1601, 5000, 97))
def test_what_is_cut_leaves_no_crumbs(length):
    spans = cut([(0, length)], length, RATE, CuttingConfig(padding_seconds=0), flat)
    assert all(4.75 * RATE <= span.samples <= 16 * RATE for span in spans)


def test_tidy():
    activity = [(5.0, 6.0), (-1.0, 0.5), (5.5, 7.0), (9.0, 30.0), (40.0, 50.0), (3.0, 3.0), (8.0, 7.5)]
    assert tidy(activity, RATE, 1000) == [(0, 50), (500, 700), (900, 1000)]


@pytest.mark.parametrize(
    "changes",
    [
        {"min_seconds": 20},
        {"target_seconds": 17},
        {"padding_seconds": -1},
        {"padding_seconds": 3},
        {"search_seconds": 0},
    ],
)
def test_settings_that_cannot_be_met_are_refused(changes):
    with pytest.raises(UserError, match="seconds"):
        check_settings(CuttingConfig(**changes))
