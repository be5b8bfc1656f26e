"""Manifests and transcripts as users have them: every line is used or named, and no file ends in a traceback."""

import json
import os
import re

import numpy as np
import pytest
from data_helpers import first
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectron import cli
from spectron.audio import wav
from spectron.config import CharactersConfig, DataConfig, FeatureConfig, TaskConfig, WordsConfig, load_experiment
from spectron.data.batches import make_feed
from spectron.data.layouts import list_recordings
from spectron.data.sources import make_source
from spectron.data.unknown import check_known
from spectron.types import UserError

FEATURES = FeatureConfig()
BROKEN = "lines that are broken"
ODD = "one\u2028two\u2029three\x85four\x0bfive\x0csix\x1cseven"
WORDS = "one two three four five six seven"
TONE = (3000 * np.sin(np.arange(32_000) * 0.1)).astype(np.int16)


def make(root, kind="manifest", split="train", **changes):
    data = DataConfig(root=str(root), prompt_seconds=1.0, min_continuation_seconds=0.5, max_tokens=400, **changes)
    return make_source(TaskConfig("corpus", kind, split), data, FEATURES)


def texts(source):
    return [source.text_of(i) for i in range(len(source))]


def line(**changes):
    return json.dumps({"audio": "a.wav", "text": "hi", "duration": 2.0} | changes, ensure_ascii=False)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["m.jsonl", "m.JSONL", "m.tsv", "m.TSV", "m.csv"])
def test_marks_and_line_ends(tmp_path, name, end):
    path = tmp_path / name
    if "json" in name.lower():
        lines = [line(text=ODD), line(text="two")]
    else:
        mark = "\t" if "tsv" in name.lower() else ","
        rows = [("audio", "text", "duration"), ("a.wav", ODD, "2"), ("a.wav", "two", "2")]
        lines = [mark.join(row) for row in rows]
    path.write_bytes(("\ufeff" + end.join(lines)).encode())
    source = make(path)
    assert texts(source) == [WORDS, "two"] and not source.rejected
    wav.write(tmp_path / "a.wav", TONE, 16_000)
    assert [record.text for record in list_recordings(path).records] == [WORDS, "two"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"duration": float("nan")}, "its duration 'nan' is not a number of seconds"),
        ({"duration": float("inf")}, "its duration 'inf' is not"),
        ({"duration": -1}, "its duration '-1' is not"),
        ({"duration": 10**400}, "its duration '1000"),
        ({"duration": True}, "its duration 'True' is not"),
        ({"duration": "two"}, "its duration 'two' is not"),
        ({"duration": [2]}, r"its duration '\[2\]' is not"),
        ({"prompt_seconds": float("nan")}, "its prompt_seconds 'nan' is not"),
        ({"prompt_seconds": -0.5}, "its prompt_seconds '-0.5' is not"),
        ({"word_ends": [float("nan")]}, "its word_ends 'nan' is not"),
        ({"word_ends": 5}, ""),
        ({"text": "\ud83d"}, "its text has a lone surrogate"),
        ({"id": "\udfff"}, "its id has a lone surrogate"),
        ({"speaker": "\ud800"}, "its speaker has a lone surrogate"),
        ({"audio": "\ud800.wav"}, "its audio has a lone surrogate"),
        ({"audio": "a\0.wav"}, "its audio has a NUL"),
        ({"text": 5}, "audio and text must be strings"),
    ],
)
def test_values_that_cannot_be_are_named_with_their_line(tmp_path, caplog, change, words):
    path = tmp_path / "m.jsonl"
    path.write_text(f"{line()}\n{json.dumps({'audio': 'a.wav', 'text': 'hi', 'duration': 2.0} | change)}\n")
    source = make(path)
    assert len(source) == 1
    (named,) = source.rejected[BROKEN]
    assert re.search(rf"m\.jsonl:2( \(.*{words}.*\))?$", named) and re.search(words, named)
    assert "m.jsonl:2" in caplog.text
    wav.write(tmp_path / "a.wav", TONE, 16_000)
    if "duration" not in change:  # which is measured there
        assert sum(map(len, list_recordings(path).rejected.values())) == 1


def test_a_name_too_long_for_a_file_is_a_recording_that_is_not_there(tmp_path):
    wav.write(tmp_path / "a.wav", TONE, 16_000)
    (tmp_path / "m.jsonl").write_text(f"{line()}\n{line(audio='x' * 5000)}\n")
    assert len(list_recordings(tmp_path / "m.jsonl").rejected["without a recording"]) == 1


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("name", ["m.jsonl", "m.tsv", "m.csv", "t.txt", "metadata.csv", "84-121.trans.txt"])
def test_other_encodings_are_refused_by_every_reader(tmp_path, name, encoding):
    mark = {"m.tsv": "\t", "m.csv": ","}.get(name)
    content = {"t.txt": "café au lait", "metadata.csv": "a|café|café", "84-121.trans.txt": "84-121-0000 CAFÉ"}.get(name)
    content = content or (mark.join(["audio", "text\na.wav", "café"]) if mark else line(text="café"))
    folder = tmp_path / "dev-clean" if "trans" in name else tmp_path
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(f"{content}\n".encode(encoding))
    kind = {"t.txt": "text", "metadata.csv": "ljspeech", "84-121.trans.txt": "librispeech"}.get(name, "manifest")
    root = tmp_path / name if kind in ("manifest", "text") else tmp_path
    with pytest.raises(UserError, match=rf"{name}'.* is (not UTF-8|UTF-16)"):
        make(root, kind, "dev-clean" if kind == "librispeech" else "train")
    if kind not in ("text", "ljspeech"):
        wav.write(folder / "a.wav", TONE, 16_000)
        for place in [tmp_path] + [tmp_path / name] * (kind == "manifest"):
            with pytest.raises(UserError, match="UTF-"):
                list_recordings(place)


def test_librispeech_with_a_tab_and_other_suffixes(tmp_path):
    book = tmp_path / "dev-clean" / "84" / "121"
    wav.write(book / "84-121-0000.flac", TONE, 16_000)
    (book / "84-121-0000.flac").rename(book / "84-121-0000.FLAC")
    wav.write(book / "84-121-0001.wav", TONE, 16_000)
    (book / "84-121-0001.wav").rename(book / "84-121-0001.WAV")
    wav.write(book / "84-121-0003.wav", TONE, 16_000)
    (book / "84-121-0002.m4a").write_bytes(b"x")
    (book / "._84-121.trans.txt").write_bytes(b"\0\5\x16\7\0\xff")  # macOS leaves those on other disks
    lines = ["\ufeff84-121-0000\tHELLO THERE", "84-121-0001  HI", "84-121-0002 GONE", f"84-121-0003 {ODD}"]
    (book / "84-121.trans.txt").write_bytes("\r\n".join(lines).encode())
    source = make(tmp_path, "librispeech", "dev-clean")
    assert texts(source) == ["HELLO THERE", "HI", WORDS]
    assert len(source.rejected["without a recording"]) == 1
    assert "84-121-0002.m4a" in str([names for reason, names in source.rejected.items() if "formats" in reason])
    linked = tmp_path / "linked" / "dev-clean"
    linked.mkdir(parents=True)
    (linked / "84").symlink_to(tmp_path / "dev-clean" / "84")
    (linked / "ring").symlink_to(linked)
    assert texts(make(tmp_path / "linked", "librispeech", "dev-clean")) == ["HELLO THERE", "HI", WORDS]


def test_text_lines_are_whole(tmp_path):
    (tmp_path / "t.txt").write_bytes(f"\ufeff{ODD}\r\nnext".encode())
    assert texts(make(tmp_path / "t.txt", "text")) == [WORDS, "next"]


def test_a_manifest_whose_first_line_is_broken_is_still_one(tmp_path):
    wav.write(tmp_path / "a.wav", TONE, 16_000)
    (tmp_path / "data.jsonl").write_text(f'{{"audio\n{line()}\n')
    listing = list_recordings(tmp_path)
    assert listing.layout == "manifest data.jsonl" and len(listing.rejected[BROKEN]) == 1


def test_inspect_leaves_out_a_text_file_in_another_encoding(tmp_path, capsys):
    for i, name in enumerate("abc"):
        wav.write(tmp_path / "in" / f"{name}.wav", np.roll(TONE, i), 16_000)
        (tmp_path / "in" / f"{name}.txt").write_bytes(f"café {name}".encode("latin-1" if name == "b" else "utf-8"))
    assert cli.main(["data", "inspect", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    rows = (tmp_path / "out" / "problems.tsv").read_text()
    assert re.search(r"encoding\t.*b\.wav\t.*b\.txt', line 1, is not UTF-8 text .*Latin-1", rows)
    assert "b.wav" not in (tmp_path / "out" / "manifest.jsonl").read_text()


def test_names_that_are_not_utf8_are_used_or_named(tmp_path):
    names = [os.fsdecode(b"caf\xe9%d" % i) for i in range(3)] + ["good0", "good1"]
    for i, name in enumerate(names):
        path = tmp_path / "in" / f"{name}.wav"
        wav.write(path, np.roll(TONE, i), 16_000)
        path.with_suffix(".txt").write_text(f"number {i}")
    assert cli.main(["data", "inspect", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    named = "".join((tmp_path / "out" / name).read_text() for name in ("problems.tsv", "manifest.jsonl"))
    assert all(f"caf\\udce9{i}.wav" in named for i in range(3))
    assert len(make(tmp_path / "out")) >= 1
    assert "caf" in (tmp_path / "out" / "inspect.html").read_text()


CONFIG = """
from spectron.config import CharactersConfig, DataConfig, Experiment, TaskConfig
data = DataConfig(root={root!r}, reader="direct", tasks=(TaskConfig("mine", "manifest"),),
    vocabulary=CharactersConfig(tuple(" abcdefghijklmnopqrstuvwxyz")), prompt_seconds=1.0, max_tokens=100)
def experiment():
    return Experiment("e", data, ())
"""


@pytest.mark.parametrize(("text", "code"), [("HELLO THERE", 2), ("hello thére", 0), ("hello there", 0)])
def test_unknown_tokens_are_counted_named_and_refused(tmp_path, capsys, caplog, text, code):
    wav.write(tmp_path / "a.wav", TONE, 16_000)
    (tmp_path / "manifest.jsonl").write_text(f"{line(text=text)}\n{line(text=text)}\n")
    (tmp_path / "config.py").write_text(CONFIG.format(root=str(tmp_path)))
    config = ["--config", str(tmp_path / "config.py")]
    for words in (["data", "inspect", "mine"], ["data", "pack", "mine", "--out", str(tmp_path / "packed")]):
        caplog.clear()
        assert cli.main([*words, *config]) == code
        said = capsys.readouterr().err + caplog.text
        if code:
            assert "'mine': 20 of the 20 tokens of 2 texts are not in the vocabulary" in said
            assert "most often 'E' (6), 'H' (4)" in said
            assert "Traceback" not in said
        elif "é" in text:
            assert said.count("2 of the 20 tokens of 2 texts are not in the vocabulary, most often 'é' (2).") == 1
        else:
            assert "not in the vocabulary" not in said
    assert (tmp_path / "packed").exists() == (code == 0)
    experiment = load_experiment(tmp_path / "config.py")
    if code:
        with pytest.raises(UserError, match=r"20 of the 20 tokens .* same letters and case"):
            make_feed(experiment, "mine", 2)
    else:
        assert first(make_feed(experiment, "mine", 2), 1)[0].text.shape[0] == 2


def test_unknown_words_and_pieces(tmp_path):
    from spectron.config import SentencePieceConfig
    from spectron.data.vocabulary import make_pieces

    (tmp_path / "t.txt").write_text("ONE TWO\none two\nthree\n")
    source = make(tmp_path / "t.txt", "text")
    with pytest.raises(UserError, match=r"3 of the 5 tokens of 3 texts .* 'ONE' \(1\), 'TWO' \(1\), 'three' \(1\)"):
        check_known("t", source, WordsConfig(("one", "two")))
    check_known("t", source, WordsConfig(("one", "two", "three")))
    check_known("t", source, CharactersConfig(tuple(" abcdefghijklmnopqrstuvwxyzONETW")))
    (tmp_path / "pieces.model").write_bytes(make_pieces([WORDS, *WORDS.split()] * 20, 40))
    (tmp_path / "t.txt").write_text("ONE TWO\n")
    with pytest.raises(UserError, match=r"2 of the 2 tokens .*'ONE'"):
        check_known("t", make(tmp_path / "t.txt", "text"), SentencePieceConfig(str(tmp_path / "pieces.model")))
    check_known("t", source, SentencePieceConfig(str(tmp_path / "gone.model"), size=40))


@st.composite
def mutated(draw):
    """A manifest with bytes changed, cut or put in at random."""
    kind = draw(st.sampled_from(["jsonl", "tsv"]))
    lines = [line(text=f"number {i}") for i in range(4)]
    if kind == "tsv":
        lines = ["audio\ttext\tduration", *(f"a.wav\tnumber {i}\t2" for i in range(4))]
    content = bytearray("".join(f"{each}\n" for each in lines).encode())
    odd = st.sampled_from(list(b'\n\r\t",:{}[]\\\x00\xff\xc3\x1c\x0b 0-eNu') + [0x85])
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 2))] = bytes(draw(st.lists(odd, max_size=3)))
    return kind, bytes(content)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutated())
def test_every_line_of_a_damaged_manifest_is_used_or_counted(tmp_path, case):
    kind, content = case
    path = tmp_path / f"m.{kind}"
    path.write_bytes(content)
    try:
        source = make(path)
    except UserError as error:
        if str(path) not in str(error) and "no usable example" not in str(error):
            raise
        return
    written = [each for each in re.split("\r\n|\n|\r", content.decode()) if each.strip()][kind == "tsv" :]
    assert len(source) + sum(map(len, source.rejected.values())) == len(written)
