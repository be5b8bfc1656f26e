import gzip
import json

import numpy as np
import pytest
from librilight_tree import RATE, add_chapter, contents, talk

from spectron.corpora import libriheavy
from spectron.corpora.cutting import CuttingConfig
from spectron.corpora.libriheavy import cut_libriheavy
from spectron.data.shards import Shards
from spectron.types import UserError

INLINE = ("--runner", "inline")
CHAPTER = "small/100/sea_fairies_0812_librivox_64kb_mp3/01_baum_sea_fairies_64kb"
SPANS = [(0.5, 8.0), (9.0, 20.0), (21.0, 39.0)]


def line(number, start, duration, recording=CHAPTER, **changes):
    """A line as the published manifests have it."""
    said = {
        "id": f"{recording}_{number}",
        "recording_id": recording,
        "start": 0,
        "duration": duration,
        "channel": 0,
        "language": "English",
        "speaker": "100",
        "custom": {
            "texts": [f"“But why?” she asked,  {number}.", f"BUT WHY SHE ASKED {number}"],
            "pre_texts": ["...us mortal folk", "...US MORTAL FOLK"],
            "begin_byte": 4993,
            "end_byte": 5120,
        },
    }
    cut = {
        "id": f"{recording}_{number}",
        "start": start,
        "duration": duration,
        "channel": 0,
        "supervisions": [said],
        "recording": {
            "id": recording,
            "sources": [{"type": "file", "channels": [0], "source": f"download/librilight/{recording}.flac"}],
            "sampling_rate": 16000,
            "num_samples": 640000,
            "duration": 40.0,
            "channel_ids": [0],
        },
        "custom": {"text_path": "download/librilight_text/output_text_small_cleaned/Sea Fairies/text.txt"},
        "type": "MonoCut",
    }
    return json.dumps(cut | changes)


@pytest.fixture
def corpus(tmp_path):
    samples = talk(SPANS, 40)
    add_chapter(tmp_path / "ll", CHAPTER, samples, [list(s) for s in SPANS])
    add_chapter(tmp_path / "ll", "medium/7/b/02", talk(SPANS, 40, seed=1), [])
    (tmp_path / "ll/medium/7/b/bad.flac").write_bytes(b"no audio")
    lines = [
        line(0, 0.44, 7.36),
        line(1, 9.001, 11.2),
        line(2, 1.0, 6.0, "medium/7/b/02", supervisions=[{"text": "EXTRACTED\0 TEXT", "speaker": "7"}]),
        line(3, 21.0, 18.0),  # too long
        line(4, 21.0, 2.0),  # too short
        line(1, 9.001, 11.2),  # again
        line(5, 35.0, 10.0),  # beyond the end
        line(6, 1.0, 6.0, "medium/7/b/bad"),
        line(7, 1.0, 6.0, "medium/7/b/missing"),
        line(8, 1.0, 6.0, supervisions=[{"text": "  ", "speaker": "7"}]),
        line(9, 1.0, 6.0, "../../etc/passwd"),
        line(10, float("nan"), 6.0),
        line(11, 1.0, 6.0, supervisions=[]),
        '{"id": "cut in ha',
        line(12, 24.0, 10.0),
    ]
    with gzip.open(tmp_path / "libriheavy_cuts_small.jsonl.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    return tmp_path


def run(corpus, out="out", **changes):
    settings = {"config": CuttingConfig(), "per_shard": 4, "options": INLINE, **changes}
    return cut_libriheavy(corpus / "libriheavy_cuts_small.jsonl.gz", corpus / "ll", corpus / out, **settings)


def test_cuts_become_utterances_with_the_books_words(corpus):
    report = run(corpus)
    shards = Shards(corpus / "out")
    made = [shards[i] for i in range(len(shards))]
    assert [u.id.rsplit("_", 1)[1] for u in made] == ["0", "1", "2", "12"]
    assert made[0].text == "“But why?” she asked, 0."
    assert made[2].text == "EXTRACTED TEXT"
    assert (made[0].speaker, made[0].book) == ("100", "sea_fairies_0812_librivox_64kb_mp3")
    samples = talk(SPANS, 40)
    for u, (start, seconds) in zip([made[0], made[1], made[3]], [(0.44, 7.36), (9.001, 11.2), (24, 10)], strict=True):
        first = round(start * RATE)
        np.testing.assert_array_equal(u.samples(), samples[first : first + round(seconds * RATE)])
    counted = {reason: found["count"] for reason, found in report["rejected"].items()}
    assert counted == {
        "utterances longer than max_seconds": 1,
        "utterances shorter than min_seconds": 1,
        "duplicate ids": 1,
        "utterances beyond the end of their recording": 1,
        "utterances whose audio cannot be read": 2,
        "without text": 1,
        "lines of the manifest that are broken": 4,
    }
    run(corpus, "asr", texts="asr")
    assert Shards(corpus / "asr")[0].text == "BUT WHY SHE ASKED 0"


@pytest.mark.parametrize(
    ("name", "call"), [("write_bytes", 1), ("write_bytes", 3), ("write_shard", 1), ("write_shard", 2)]
)
def test_stopped_anywhere_it_ends_up_the_same(corpus, monkeypatch, name, call):
    real, calls = getattr(libriheavy, name), []

    def dying(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(libriheavy, name, dying)
        with pytest.raises(KeyboardInterrupt):
            run(corpus, "again")
    run(corpus, "again")
    run(corpus)
    assert contents(corpus / "again") == contents(corpus / "out")


def test_mistakes(corpus):
    run(corpus)
    before = contents(corpus / "out")
    with pytest.raises(UserError, match=r"limits\.max_seconds 16\.0, this run has 20"):
        run(corpus, config=CuttingConfig(max_seconds=20))
    with pytest.raises(UserError, match="texts 'book', this run has 'asr'"):
        run(corpus, texts="asr")
    assert contents(corpus / "out") == before
    with pytest.raises(UserError, match="--texts 'both'"):
        run(corpus, texts="both")
    with pytest.raises(UserError, match="does not exist"):
        cut_libriheavy(corpus / "none.jsonl.gz", corpus / "ll", corpus / "x", CuttingConfig())
    with pytest.raises(UserError, match="contains none of small"):
        cut_libriheavy(corpus / "libriheavy_cuts_small.jsonl.gz", corpus, corpus / "x", CuttingConfig())
    whole = (corpus / "libriheavy_cuts_small.jsonl.gz").read_bytes()
    (corpus / "libriheavy_cuts_small.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cannot be read .*copy the file again"):
        run(corpus, "x")
