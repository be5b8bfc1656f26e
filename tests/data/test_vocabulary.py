import pytest

from spectron.config import VocabularyConfig
from spectron.data.vocabulary import encode_ends, encode_target, make_vocabulary
from spectron.types import UserError

WORDS = make_vocabulary(VocabularyConfig("words", ("one", "two", "three")))
BYTES = make_vocabulary(VocabularyConfig("bytes"))


def test_words_round_trip_and_unknown():
    assert WORDS.size == 7
    assert WORDS.encode("two one") == [5, 4]
    assert WORDS.decode([2, 5, 4, 1, 6, 0]) == "two one"
    assert WORDS.encode("two zebra") == [5, 3]
    assert WORDS.decode([5, 3]) == "two <unk>"


def test_bytes_round_trip_every_character():
    assert BYTES.size == 260
    assert BYTES.decode(BYTES.encode("Größe 語")) == "Größe 語"
    assert min(BYTES.encode("\0a")) >= 4  # never a special
    assert BYTES.decode([259, 102]) == "�b"  # a broken character is no crash


def test_target_scores_all_or_the_first_words():
    assert encode_target(WORDS, "one  two three") == ([4, 5, 6, 1], 4)
    assert encode_target(WORDS, "one two three", 2) == ([4, 5, 6, 1], 2)
    assert encode_target(WORDS, "one two three", 3) == ([4, 5, 6, 1], 4)
    ids, scored = encode_target(BYTES, "ab c", 1)
    assert BYTES.decode(ids[:scored]) == "ab"


def test_tokens_share_the_time_of_their_word():
    assert encode_ends(WORDS, "one  two", [10, 30]) == [10, 30]
    assert encode_ends(BYTES, "ab c", [10, 30]) == [5, 10, 20, 30]
    assert encode_ends(BYTES, "ab c", []) == []


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (VocabularyConfig("words"), "words is empty"),
        (VocabularyConfig("words", ("a", "b", "a")), "'a' twice"),
        (VocabularyConfig("letters"), "'letters' is unknown"),
        (VocabularyConfig("sentencepiece", path="/nowhere.model"), "no file"),
    ],
)
def test_mistakes_are_named(config, says):
    with pytest.raises(UserError, match=says):
        make_vocabulary(config)


def test_sentencepiece(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    lines = ["the quick brown fox", "a lazy dog sleeps", "nine little ducks"] * 20
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines), model_prefix=str(tmp_path / "m"), vocab_size=30, minloglevel=5
    )
    vocabulary = make_vocabulary(VocabularyConfig("sentencepiece", path=str(tmp_path / "m.model")))
    assert vocabulary.size == 34
    assert vocabulary.decode(vocabulary.encode("the lazy fox")) == "the lazy fox"
    assert vocabulary.unk_id in vocabulary.encode("the 語")
    assert min(vocabulary.encode("the lazy fox")) >= 4
    (tmp_path / "bad.model").write_text("no model")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        make_vocabulary(VocabularyConfig("sentencepiece", path=str(tmp_path / "bad.model")))
