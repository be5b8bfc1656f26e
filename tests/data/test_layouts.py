"""Which recordings and texts a folder has, in every layout that is detected."""

import json

import numpy as np
import pytest

from spectron.audio import wav
from spectron.data.layouts import list_recordings
from spectron.types import UserError

SPEECH = (3000 * np.sin(np.arange(1600) * 0.1)).astype(np.int16)


def record(*paths):
    for path in paths:
        wav.write(path, SPEECH, 16_000)


def heard(listing):
    return {record.id: (record.text, record.speaker) for record in listing.records}


def test_a_text_file_next_to_each_recording(tmp_path):
    record(tmp_path / "a.wav", tmp_path / "b.FLAC".lower(), tmp_path / "c.wav", tmp_path / ".hidden.wav")
    (tmp_path / "a.txt").write_text("\ufeffhello\n  there\n")
    (tmp_path / "b.lab").write_text("hi")
    (tmp_path / "d.txt").write_text("nobody")
    (tmp_path / "e.m4a").write_bytes(b"x")
    listing = list_recordings(tmp_path)
    assert heard(listing) == {"a": ("hello there", ""), "b": ("hi", ""), "c": ("", "")}
    assert "one text file per recording" in listing.layout
    assert listing.rejected == {"without a recording": [str(tmp_path / "d.txt")]}
    assert listing.unsupported == [str(tmp_path / "e.m4a")]


def test_folders_are_speakers_and_texts_may_be_in_a_folder_of_their_own(tmp_path):
    record(tmp_path / "wav" / "ann" / "a1.wav", tmp_path / "wav" / "bob" / "b1.wav")
    for name in ("a1", "b1"):
        (tmp_path / "txt").mkdir(exist_ok=True)
        (tmp_path / "txt" / f"{name}.txt").write_text(f"text {name}")
    listing = list_recordings(tmp_path)
    assert heard(listing) == {"wav/ann/a1": ("text a1", "ann"), "wav/bob/b1": ("text b1", "bob")}
    assert "2 folders are taken for speakers" in listing.layout


def test_no_texts_at_all(tmp_path):
    record(tmp_path / "x" / "a.wav")
    listing = list_recordings(tmp_path)
    assert listing.layout == "recordings without texts"
    assert heard(listing) == {"x/a": ("", "")}


def test_librispeech(tmp_path):
    book = tmp_path / "LibriSpeech" / "train-clean-100" / "19" / "198"
    record(book / "19-198-0000.flac", book / "19-198-0001.flac")
    (book / "19-198.trans.txt").write_text("19-198-0000 A NOVEL\n19-198-0009 GONE\n")
    listing = list_recordings(tmp_path)
    assert "LibriSpeech" in listing.layout
    texts = [(record.text, record.speaker) for record in listing.records]
    assert texts == [("A NOVEL", "19"), ("", "")]  # the second has no line
    assert "19-198-0009" in listing.rejected["without a recording"][0]


def test_ljspeech(tmp_path):
    record(tmp_path / "wavs" / "LJ1.wav")
    (tmp_path / "metadata.csv").write_text("LJ1|In 1984,|In nineteen eighty-four,\n")
    listing = list_recordings(tmp_path)
    assert "LJSpeech" in listing.layout
    assert heard(listing) == {"LJ1": ("In nineteen eighty-four,", "LJ")}


def test_common_voice_leaves_its_test_recordings_out_of_training(tmp_path):
    folder = tmp_path / "cv" / "en"
    record(*(folder / "clips" / f"{name}.wav" for name in "abc"))
    header = "client_id\tpath\tsentence\tup_votes\n"
    (folder / "validated.tsv").write_text(header + 'u1\ta.wav\tHe said "hi\t2\nu2\tb.wav\tYes.\t2\n')
    (folder / "test.tsv").write_text(header + "u2\tb.wav\tYes.\t2\n")
    listing = list_recordings(tmp_path)
    assert "Common Voice" in listing.layout
    found = {record.audio[-5:]: (record.text, record.speaker, record.split) for record in listing.records}
    assert found == {"a.wav": ('He said "hi', "u1", ""), "b.wav": ("Yes.", "u2", "unused"), "c.wav": ("", "", "")}


@pytest.mark.parametrize("name", ["metadata.csv", "mine.tsv", "manifest.jsonl", "data.jsonl"])
def test_manifests_with_the_columns_of_other_programs(tmp_path, name):
    record(tmp_path / "wavs" / "a.wav", tmp_path / "b.wav")
    rows = [("wavs/a.wav", "one, two", "s"), ("b", "three", "s"), ("gone.wav", "four", "s")]
    path = tmp_path / name
    if name.endswith(".jsonl"):
        keys = ("audio_filepath", "text", "speaker")
        lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows] + ['{"half', "3"]
    else:
        mark = "\t" if name.endswith(".tsv") else ","
        quote = "" if name.endswith(".tsv") else '"'
        lines = [mark.join(("file_name", "transcription", "speaker_id"))]
        lines += [mark.join(f"{quote}{cell}{quote}" for cell in row) for row in rows] + ["too", "few"]
    path.write_text("\n".join(lines) + "\n")
    for root in (tmp_path, path):
        listing = list_recordings(root)
        assert listing.layout == f"manifest {name}"
        assert sorted(heard(listing).values()) == [("one, two", "s"), ("three", "s")]
        assert {reason: len(names) for reason, names in listing.rejected.items()} == {
            "without a recording": 1,
            "lines that are broken": 2,
        }


def test_the_output_folder_is_not_searched(tmp_path):
    record(tmp_path / "a.wav", tmp_path / "out" / "prompts" / "a.wav")
    assert len(list_recordings(tmp_path, tmp_path / "out").records) == 1


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("gone", None, "does not exist"),
        ("film.pdf", "x", "neither a folder nor a manifest"),
        ("bad.tsv", "a\tb\n1\t2\n", "no column for recordings"),
        ("bad.jsonl", '{"audio": "a.w\n', "names no recording that exists: 1 lines that are broken"),
        ("bad.jsonl", '{"audio": "gone.wav"}\n', "names no recording that exists: 1 without a recording"),
        ("latin.csv", "audio,text\na.wav,\xe9\n", "not UTF-8"),
        (".", None, "has no recordings"),
    ],
)
def test_wrong_input_is_one_sentence(tmp_path, name, content, expected):
    if content is not None:
        (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=expected) as caught:
        list_recordings(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_several_manifests_are_not_guessed_between(tmp_path):
    record(tmp_path / "a.wav")
    for name in ("x.tsv", "y.tsv"):
        (tmp_path / name).write_text("audio\ttext\na.wav\thi\n")
    with pytest.raises(UserError, match=r"several manifests \(x\.tsv, y\.tsv\)"):
        list_recordings(tmp_path)
