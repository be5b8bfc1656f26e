import json

import numpy as np
import pytest
from data_helpers import first

from spectron.audio import wav
from spectron.config import DataConfig, Experiment, FeatureConfig, TaskConfig
from spectron.data.batches import make_feed
from spectron.data.example import BadExample
from spectron.data.sources import make_source
from spectron.types import UserError

FEATURES = FeatureConfig()
LIMITS = {"prompt_seconds": 1.0, "min_continuation_seconds": 0.5, "max_seconds": 3.0, "max_prompt_seconds": 1.3}


def speech(seconds, rate=16_000):
    return (3000 * np.sin(np.arange(round(seconds * rate)) * 0.1)).astype(np.int16)


def make(root, kind="manifest", split="train", **changes):
    data = DataConfig(root=str(root), **{**LIMITS, "max_tokens": 20, **changes})
    return make_source(TaskConfig("corpus", kind, split), data, FEATURES)


@pytest.fixture
def folder(tmp_path):
    """A manifest with everything that goes wrong."""
    wav.write(tmp_path / "good.wav", speech(2), 16_000)
    wav.write(tmp_path / "other.flac", speech(2.5, 8000), 8000)
    wav.write(tmp_path / "short.wav", speech(1.2), 16_000)
    wav.write(tmp_path / "long.wav", speech(3.5), 16_000)
    wav.write(tmp_path / "silent.wav", speech(2) * 0, 16_000)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "film.wav").write_bytes(b"\0\0\0 ftypisom" * 50)
    rows = [
        {"id": "good", "audio": "good.wav", "text": "hello  there", "speaker": "s1", "word_ends": [0.5, 1.75]},
        {"id": "other", "audio": "other.flac", "text": "hi", "duration": 2.5, "prompt_seconds": 1.25, "split": "train"},
        {"id": "test-only", "audio": "good.wav", "text": "hi", "split": "test"},
        {"id": "short", "audio": "short.wav", "text": "hi"},
        {"id": "long", "audio": "long.wav", "text": "hi"},
        {"id": "prompt", "audio": "good.wav", "text": "hi", "prompt_seconds": 1.4},
        {"id": "wordy", "audio": "good.wav", "text": "x" * 20},
        {"id": "mute", "audio": "good.wav", "text": " "},
        {"id": "no-file", "audio": "gone.wav", "text": "hi"},
        {"id": "no-bytes", "audio": "empty.wav", "text": "hi"},
        {"id": "a-film", "audio": "film.wav", "text": "hi"},
        {"id": "no-text", "audio": "good.wav"},
        {"id": "half-timed", "audio": "good.wav", "text": "hi there", "word_ends": [0.5]},
        {"id": "backwards", "audio": "good.wav", "text": "hi there", "word_ends": [0.5, 0.25]},
        {"id": "silent", "audio": "silent.wav", "text": "hi"},
    ]
    lines = [json.dumps(row) for row in rows]
    lines.insert(2, lines[0][:30])  # cut in half
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines) + "\n\n")
    return tmp_path


def test_a_manifest_keeps_the_good_and_counts_the_rest(folder, caplog):
    source = make(folder)
    assert len(source) == 3
    assert source[0].id == "good"
    assert source[0].text == "hello there"
    assert source[0].speaker == "s1"
    assert source[0].prompt_samples == 16_000
    assert source[0].word_ends == (8_000, 28_000)
    assert source[1].word_ends == ()
    assert source[1].prompt_samples == 20_000
    assert len(source[1].samples) == 40_000
    counts = {reason: len(ids) for reason, ids in source.rejected.items()}
    assert counts == {
        "lines that are broken": 4,
        "shorter than the prompt plus min_continuation_seconds": 1,
        "longer than max_seconds": 1,
        "prompt longer than max_prompt_seconds": 1,
        "more tokens than max_tokens": 1,
        "without text": 1,
        "that cannot be read": 3,
    }
    assert "manifest.jsonl:3" in caplog.text  # the half line
    assert "gone.wav" in caplog.text
    with pytest.raises(BadExample, match=r"silent\.wav"):
        source[2]


def test_audio_that_turns_out_bad_is_replaced_in_training(tmp_path, caplog):
    import soundfile

    wav.write(tmp_path / "good.wav", speech(2), 16_000)
    wav.write(tmp_path / "tiny.wav", speech(0.1), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(32_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    rows = [("a", "good.wav"), ("b", "nan.wav"), ("c", "good.wav"), ("d", "tiny.wav"), ("e", "good.wav")]
    text = "".join(json.dumps({"id": i, "audio": a, "text": i, "duration": 2.0}) + "\n" for i, a in rows)
    (tmp_path / "manifest.jsonl").write_text(text)
    task = TaskConfig("corpus", "manifest")
    data = DataConfig(root=str(tmp_path), reader="direct", tasks=(task,), **LIMITS)
    feed = make_feed(Experiment("e", data, ()), "corpus", 5)
    batches = first(feed, 6)
    spoken = {chr(int(token) - 4) for batch in batches for token in batch.text[:, 0]}
    assert spoken == {"a", "c", "e"}
    assert caplog.text.count("nan.wav") == 1  # named once, however often it is met
    assert caplog.text.count("tiny.wav") == 1
    assert len(feed.rows.bad[0]) == 2


def test_mostly_bad_audio_stops_with_one_sentence(tmp_path):
    wav.write(tmp_path / "good.wav", speech(2), 16_000)
    names = ["good.wav", "gone.wav", "gone.wav", "gone.wav"]
    text = "".join(json.dumps({"audio": a, "text": "hi", "duration": 2.0}) + "\n" for a in names)
    (tmp_path / "manifest.jsonl").write_text(text)
    data = DataConfig(root=str(tmp_path), reader="direct", tasks=(TaskConfig("corpus", "manifest"),), **LIMITS)
    with pytest.raises(UserError, match=r"'corpus': 3 of \d+ records tried are bad.*gone\.wav"):
        first(make_feed(Experiment("e", data, ()), "corpus", 2), 4)


def test_nothing_usable_is_an_error(tmp_path):
    (tmp_path / "manifest.jsonl").write_text('{"audio": "a.wav", "te\n{"au\n')
    with pytest.raises(UserError, match=r"2 lines that are broken \(.*manifest\.jsonl:1, …\)"):
        make(tmp_path)
    (tmp_path / "manifest.jsonl").write_text("")
    with pytest.raises(UserError, match="its root is empty"):
        make(tmp_path)
    with pytest.raises(UserError, match="is not a manifest"):
        make(tmp_path / "nowhere")
    with pytest.raises(UserError, match="'tape' is unknown"):
        make(tmp_path, "tape")


def test_tsv(tmp_path):
    wav.write(tmp_path / "a.wav", speech(2), 16_000)
    (tmp_path / "list.tsv").write_text(
        'id\taudio\ttext\tword_ends\n1\ta.wav\tsay "hi"\t0.5 1\n2\ta.wav\n3\ta.wav\tbye\t\n'
    )
    source = make(tmp_path / "list.tsv")
    assert [source[i].text for i in range(len(source))] == ['say "hi"', "bye"]
    assert [source[i].word_ends for i in range(len(source))] == [(8000, 16_000), ()]
    assert len(source.rejected["lines that are broken"]) == 1
    (tmp_path / "bare.tsv").write_text("a.wav\thello\n")
    with pytest.raises(UserError, match="no columns 'audio' and 'text'"):
        make(tmp_path / "bare.tsv")


@pytest.mark.parametrize("inside", ["", "LibriSpeech"])
def test_librispeech_layout(tmp_path, inside):
    book = tmp_path / inside / "dev-clean" / "84" / "121"
    wav.write(book / "84-121-0000.flac", speech(2), 16_000)
    wav.write(book / "84-121-0001.flac", speech(1.2), 16_000)
    (book / "84-121.trans.txt").write_text("84-121-0000 HELLO THERE\n84-121-0001 HI\n84-121-0002 GONE\n84-121-0003\n")
    source = make(tmp_path, "librispeech", "dev-clean")
    assert [(source[i].id, source[i].text, source[i].speaker) for i in range(len(source))] == [
        ("84-121-0000", "HELLO THERE", "84")
    ]
    assert source.rejected["shorter than the prompt plus min_continuation_seconds"] == ["84-121-0001"]
    assert len(source.rejected["without a recording"]) == 1
    assert len(source.rejected["lines that are broken"]) == 1
    with pytest.raises(UserError, match="no folder 'train'"):
        make(tmp_path, "librispeech")


@pytest.mark.parametrize(("inside", "suffix"), [("", ".wav"), ("LJSpeech-1.1", ".flac")])
def test_ljspeech_layout(tmp_path, inside, suffix):
    folder = tmp_path / inside
    for name, seconds in (("LJ001-0001", 2), ("LJ001-0002", 2.5), ("LJ001-0003", 1.2)):
        wav.write(folder / "wavs" / f"{name}{suffix}", speech(seconds, 22_050), 22_050)
    (folder / "metadata.csv").write_text(
        'LJ001-0001|in "1455"|in "fourteen\nLJ001-0002|Hello  there.|\nLJ001-0003|hi|hi\n'
        "LJ001-0004|gone|gone\nLJ001-0005\n|a|b\n"
    )
    source = make(tmp_path, "ljspeech")
    assert [(source[i].id, source[i].text, source[i].speaker) for i in range(len(source))] == [
        ("LJ001-0001", 'in "fourteen', "LJ"),
        ("LJ001-0002", "Hello there.", "LJ"),
    ]
    assert source.lengths.tolist() == [32_000, 40_000]
    assert source.tokens.tolist() == [13, 13]
    assert {reason: len(ids) for reason, ids in source.rejected.items()} == {
        "shorter than the prompt plus min_continuation_seconds": 1,
        "without a recording": 1,
        "lines that are broken": 2,
    }
    with pytest.raises(UserError, match=r"has no metadata\.csv; give the folder of LJSpeech-1\.1"):
        make(tmp_path / "wavs", "ljspeech")


def test_text_lines(tmp_path):
    (tmp_path / "t.txt").write_text("one  line\n\nan other\n" + "x" * 30 + "\n")
    source = make(tmp_path / "t.txt", "text")
    assert [source[i].text for i in range(len(source))] == ["one line", "an other", "x" * 15, "x" * 15]
    assert [source[i].id for i in range(1, 4)] == ["t.txt:3", "t.txt:4.1", "t.txt:4.2"]
    assert source.rejected == {"without text": ["t.txt:2"]}
    with pytest.raises(UserError, match="is not a file"):
        make(tmp_path, "text")


def test_real_corpora(data_dir):
    source = make(data_dir / "librivox_clips", max_seconds=16.0, max_continuation_seconds=15.0, max_tokens=300)
    assert len(source) >= 4
    assert source[0].text.startswith("and mister john dashwood")
    assert abs(len(source[0].samples) / 16_000 - 7.1) < 0.05
