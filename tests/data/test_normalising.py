"""Texts meet the tokenizer in the case that it knows, and a task that loses most of its records stops the run."""

import dataclasses
import json
import logging

import numpy as np
import pytest
from data_helpers import first, with_data

from spectron.audio import wav
from spectron.config import (
    BytesConfig,
    CharactersConfig,
    DataConfig,
    Experiment,
    FeatureConfig,
    SentencePieceConfig,
    TaskConfig,
    WordsConfig,
)
from spectron.data import packing
from spectron.data.batches import make_feed
from spectron.data.normalising import make_normaliser
from spectron.data.shards import Utterance, encode_flac, shard_path, write_shard
from spectron.data.sources import make_source, source_of
from spectron.data.vocabulary import make_pieces, make_vocabulary
from spectron.types import UserError

RATE = 16_000
# Natural text: lower case but for names, "I", acronyms and the first word of a sentence.
SENTENCES = (
    "The train to London leaves at seven and I hope that John will be on it.",
    "When I was in France I saw the Queen and the king of the country.",
    "She said that it was the best book that she had ever read in London.",
    "John and Mary went to the market, and the people came with them.",
    "It is the will of the people that the king should leave France at once.",
    "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
    "Will it rain? I think that it will not, but John is sure of it.",
)
SPOKEN = "I HOPE THAT JOHN WILL LEAVE LONDON WITH THE KING"


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    path = tmp_path_factory.mktemp("pieces") / "pieces.model"
    path.write_bytes(make_pieces(SENTENCES * 20, 120))
    return SentencePieceConfig(str(path))


def speech(seconds=2.0):
    return (3000 * np.sin(np.arange(round(seconds * RATE)) * 0.1)).astype(np.int16)


def corpus(folder, kind, texts):
    """The texts as a LibriSpeech folder, an LJSpeech folder, a manifest, shards or a text file."""
    names = [f"1-2-{i:04}" for i in range(len(texts))]
    pairs = list(zip(names, texts, strict=True))
    if kind == "librispeech":
        book = folder / "train" / "1" / "2"
        for name in names:
            wav.write(book / f"{name}.flac", speech(), RATE)
        (book / "1-2.trans.txt").write_text("".join(f"{name} {text}\n" for name, text in pairs))
    elif kind == "ljspeech":
        for name in names:
            wav.write(folder / "wavs" / f"{name}.wav", speech(), RATE)
        (folder / "metadata.csv").write_text("".join(f"{name}|{text}\n" for name, text in pairs))
    elif kind == "manifest":
        wav.write(folder / "a.wav", speech(), RATE)
        rows = [{"id": name, "audio": "a.wav", "text": text, "duration": 2.0} for name, text in pairs]
        (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "shards":
        audio = encode_flac(speech(), RATE)
        utterances = [Utterance(name, "s", "", audio, RATE, len(speech()), text) for name, text in pairs]
        half = len(utterances) // 2
        write_shard(shard_path(folder, 0), utterances[:half])
        write_shard(shard_path(folder, 1), utterances[half:])
    else:
        (folder / "texts.txt").write_text("".join(f"{text}\n" for text in texts))
    return folder


KINDS = ("librispeech", "ljspeech", "manifest", "shards", "text")


def experiment(root, kind, vocabulary, normaliser="keep", **changes):
    task = TaskConfig("t", kind, root=str(root), normaliser=normaliser)
    limits = {"prompt_seconds": 0.5, "min_continuation_seconds": 0.5, "max_tokens": 60, "reader": "direct"}
    return Experiment("e", DataConfig(tasks=(task,), vocabulary=vocabulary, **{**limits, **changes}), ())


def texts_of(source):
    return [source[i].text for i in range(len(source))]


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_applies_the_tasks_normaliser(tmp_path, kind, pieces):
    if kind == "shards":
        pytest.importorskip("array_record", reason="the extra 'data' is not installed")
    root = corpus(tmp_path, kind, [SPOKEN, "THE QUEEN"])
    natural = ["I hope that John will leave London with the king", "the Queen"]
    expected = {"keep": [SPOKEN, "THE QUEEN"], "lower": [SPOKEN.lower(), "the queen"], "truecase": natural}
    for normaliser, texts in expected.items():
        config = experiment(root, kind, pieces, normaliser)
        source = source_of(config, "t")
        assert texts_of(source) == [source.text_of(i) for i in range(len(source))] == texts
        vocabulary = make_vocabulary(pieces)
        assert source.tokens.tolist() == [len(vocabulary.encode(text)) + 1 for text in texts]
        if kind != "text":  # its long lines are cut, not left out
            tight = experiment(root, kind, pieces, normaliser, max_tokens=25)
            fits = [len(vocabulary.encode(text)) < 25 for text in texts]
            assert len(source_of(tight, "t")) == sum(fits) == {"keep": 1, "lower": 2, "truecase": 2}[normaliser]


@pytest.mark.parametrize(
    ("vocabulary", "text", "expected"),
    [
        (WordsConfig(("the", "London", "NASA", "O'Neil", "McDonald")), "THE LONDON NASA", "the London NASA"),
        (WordsConfig(("the", "London", "NASA", "O'Neil", "McDonald")), "O'NEIL McDonald", "O'Neil McDonald"),
        (CharactersConfig(tuple(" ABCDEFGHIJKLMNOPQRSTUVWXYZ'")), "don't Stop", "DON'T STOP"),
        (CharactersConfig(tuple(" abcdefghijklmnopqrstuvwxyz'")), "DON'T STOP", "don't stop"),
    ],
)
def test_the_true_caser_takes_the_spelling_that_the_vocabulary_knows(vocabulary, text, expected):
    assert make_normaliser("truecase", vocabulary)(text) == expected


def test_normalisers_that_cannot_work_are_refused():
    with pytest.raises(UserError, match="'truecase' needs a vocabulary that knows spellings"):
        make_normaliser("truecase", BytesConfig())
    data = DataConfig(tasks=(TaskConfig("c", "counting_text", normaliser="lower"),))
    with pytest.raises(UserError, match=r"data\.tasks\.c\.normaliser 'lower'.*'counting_text'"):
        make_source(data.tasks[0], data, FeatureConfig())


def mostly_too_long(root, kind, vocabulary, **changes):
    """Nine texts of which seven have too many tokens, and one has none."""
    texts = [SPOKEN] * 7 + ["THE QUEEN", "THE KING"] + ([""] if kind != "librispeech" else [])
    return experiment(corpus(root, kind, texts), kind, vocabulary, max_tokens=25, **changes)


@pytest.mark.parametrize("kind", ["librispeech", "manifest", "shards"])
def test_a_task_that_loses_most_of_its_records_stops_the_run(tmp_path, kind, pieces):
    if kind == "shards":
        pytest.importorskip("array_record", reason="the extra 'data' is not installed")
    config = mostly_too_long(tmp_path, kind, pieces)
    with pytest.raises(UserError, match=r"Task 't' loses (77\.8|80\.0) % .*7 more tokens than max_tokens") as caught:
        make_feed(config, "t", 2)
    assert "data.max_left_out (0.5)" in str(caught.value)
    assert "\n" not in str(caught.value)
    allowed = with_data(config, max_left_out=0.9)
    assert first(make_feed(allowed, "t", 2), 1)[0].text.shape[0] == 2
    cased = dataclasses.replace(config.data.tasks[0], normaliser="truecase")
    assert len(make_feed(with_data(config, tasks=(cased,)), "t", 2).rows.sources[0]) == 9


def test_packed_tasks_lose_records_in_the_open_too(tmp_path, pieces, caplog):
    config = experiment(corpus(tmp_path, "manifest", [SPOKEN] * 7 + ["THE QUEEN", "THE KING"]), "manifest", pieces)
    config = with_data(config, max_tokens=80)
    packing.pack(config, "t", tmp_path / "packs")
    shorter = with_data(config, packed=str(tmp_path / "packs"), max_tokens=25)
    with pytest.raises(UserError, match=r"loses 77\.8 % .*7 more tokens than max_tokens"):
        make_feed(shorter, "t", 2)


def test_the_log_says_what_is_used_and_how(tmp_path, pieces, caplog):
    caplog.set_level(logging.INFO)
    make_feed(mostly_too_long(tmp_path, "manifest", pieces, max_left_out=0.9), "t", 2)
    assert "Task 't': 2 of 10 records are used; left out 80.0 %:" in caplog.text
    caplog.clear()
    config = experiment(tmp_path, "manifest", pieces, "truecase")
    make_feed(config, "t", 2)
    assert "Task 't': 9 of 10 records are used, texts normalised by 'truecase'; left out 10.0 %:" in caplog.text
    assert "1 without text" in caplog.text
