"""What is scored, as users give it: manifests, folders, recordings of nothing, and what is refused."""

import json

import numpy as np
import pytest
from evaluation.fakes import LengthRecogniser, LetterLM, Level, manifest, tone

from spectron.audio import wav
from spectron.evaluation.score.items import from_folders, from_manifest
from spectron.evaluation.score.metrics import Perplexity, Quality, Questions, Voices, Words
from spectron.evaluation.score.suite import score
from spectron.types import UserError

pytest.importorskip("soundfile", reason="soundfile is not installed")


@pytest.fixture
def pairs(tmp_path):
    """Four prompts and continuations."""
    for i in range(4):
        wav.write(tmp_path / "prompts" / f"{i}.wav", tone(250, 1), 16_000)
        wav.write(tmp_path / "said" / f"{i}.flac", tone(250, 2), 16_000)
    return tmp_path


class NeverNothing(LengthRecogniser):
    """A recogniser that cannot be given nothing."""

    def transcribe(self, recordings):
        assert recordings and all(map(len, recordings))
        return super().transcribe(recordings)


@pytest.mark.parametrize("suffix", ["wav", "ogg"])
def test_a_recording_of_nothing_is_nothing_heard(tmp_path, suffix):
    wav.write(tmp_path / f"a.{suffix}", np.zeros(0, np.int16), 16_000)
    wav.write(tmp_path / "b.wav", tone(100, 0.3), 16_000)
    records = [{"text": "one two", "answers": "two", "audio": name} for name in (f"a.{suffix}", "b.wav")]
    path, ear = manifest(tmp_path, records), NeverNothing({3: "one two"})
    for metric, column, value in ((Words(ear), "WER", 0.5), (Questions(ear), "contains", 0.5)):
        results = score(metric, from_manifest(path, metric.roles), tmp_path / metric.name, "x")
        figure = results.tables[0].rows["x"][column]
        assert (figure.value, figure.n) == (value, 2)
    metric = Perplexity(LetterLM(), ear)
    results = score(metric, from_manifest(path, metric.roles), tmp_path / "perplexity", "x")
    assert results.tables[0].note == "x: 1 of 2 left out, nothing was said that could be scored."
    only = from_manifest(manifest(tmp_path, records[:1]), Words(ear).roles)
    assert score(Words(ear), only, tmp_path / "only", "x").tables[0].rows["x"]["WER"].value == 1
    quality = Quality("level", Level(), pairs=False)
    with pytest.raises(UserError, match=rf"a\.{suffix}' holds no samples; give a recording"):
        score(quality, from_manifest(path, quality.roles), tmp_path / "no", "x")


def test_no_recording_is_not_one_of_nothing(tmp_path):
    path, ear = manifest(tmp_path, [{"text": "one", "audio": "a.wav"}]), NeverNothing({})
    for content, said in ((b"", "is empty"), (b"RIFF", "damaged or not audio")):
        (tmp_path / "a.wav").write_bytes(content)
        with pytest.raises(UserError, match=said):
            score(Words(ear), from_manifest(path, Words(ear).roles), tmp_path / f"out{len(content)}", "x")


@pytest.mark.parametrize(
    ("records", "options", "said"),
    [
        ([{"id": 1}], {}, "has no field 'answers' (it has id); name the right one: --field answers=KEY"),
        ([{"answers": [1], "transcript": ""}], {}, "field 'answers' must be a text or a list of texts"),
        ([{"answers": [], "transcript": ""}], {}, "field 'answers' must be a text or a list of texts"),
        ([{"answers": ["a", " "], "transcript": ""}], {}, "field 'answers' must be a text or a list of texts"),
        ([{"answers": "", "transcript": ""}], {}, "field 'answers' must be a text or a list of texts"),
        ([{"answers": "a", "transcript": 3}], {}, "field 'transcript' must be a text"),
        ([{"answers": "a", "transcript": "b", "id": 1}] * 2, {}, "has the id '1' of a line before it"),
        ([{"answers": "a", "transcript": "b"}], {"where": {"task": "qa"}}, "has no line with task=qa"),
        ([{"answers": "a", "transcript": "b"}], {"fields": {"prompt": "x"}}, "--field prompt=… is not read here"),
        ([["a"]], {}, "line 1, is not a JSON object"),
    ],
)
def test_sentences_about_manifests(tmp_path, records, options, said):
    with pytest.raises(UserError) as error:
        from_manifest(manifest(tmp_path, records), Questions(None).roles, **options)
    assert said in str(error.value)


def test_manifests_with_a_mark_and_odd_characters(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(
        '\ufeff{"answers": "a\u2028b\x85c", "transcript": "x"}\r\n{"answers": "d", "transcript": "y"}'.encode()
    )
    items = from_manifest(path, Questions(None).roles).items
    assert [item.answers for item in items] == [["a\u2028b\x85c"], ["d"]]
    for content, said in (
        ("é".encode("latin-1"), "Latin-1"),
        ("é".encode("utf-16"), "UTF-16"),
        (b'{"a":"\\ud800"}', "lone"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=said):
            from_manifest(path, Questions(None).roles)


def test_folders_with_links_suffixes_and_formats(tmp_path, caplog):
    for name in ("far/a.wav", "said/b.flac"):
        wav.write(tmp_path / name, tone(100, 1), 16_000)
    (tmp_path / "far" / "a.wav").rename(tmp_path / "far" / "a.WAVE")
    (tmp_path / "said" / "c.webm").write_bytes(b"x")
    (tmp_path / "said" / "far").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "ring").symlink_to(tmp_path / "said")
    assert [item.id for item in from_folders({"audio": str(tmp_path / "said")}, ["audio"]).items] == ["b", "far/a"]
    assert "1 file passed over: 1 .webm" in caplog.text


def test_a_name_that_no_file_can_have(tmp_path):
    path = manifest(tmp_path, [{"audio": "a\u0000b.wav"}])
    items = from_manifest(path, ["audio"])
    with pytest.raises(UserError, match=r"a\\x00b\.wav' cannot be read \(embedded null byte\); check the path\."):
        score(Quality("level", Level(), pairs=False), items, tmp_path / "out", "x")


def test_sentences_about_folders(pairs):
    roles, folders = Voices.roles, {"prompt": str(pairs / "prompts"), "continuation": str(pairs / "said")}
    with pytest.raises(UserError, match="add --folder continuation=DIR"):
        from_folders({"prompt": str(pairs / "prompts")}, roles)
    with pytest.raises(UserError, match="no such folder"):
        from_folders({**folders, "prompt": str(pairs / "nowhere")}, roles)
    with pytest.raises(UserError, match="holds no audio"):
        from_folders({**folders, "prompt": str(manifest(pairs / "texts", []).parent)}, roles)
    (pairs / "prompts" / "3.wav").unlink()
    with pytest.raises(UserError, match=r"said' has '3' and .*prompts' has not"):
        from_folders(folders, roles)
    wav.write(pairs / "prompts" / "2.flac", tone(9, 1), 16_000)
    with pytest.raises(UserError, match="have the same stem"):
        from_folders(folders, roles)


def test_texts_from_folders(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "1.json").write_text('{"transcript": "it is rome"}')
    (tmp_path / "b" / "1.txt").write_text("Rome\nRoma\n\n")
    folders = {"transcript": str(tmp_path / "a"), "answers": str(tmp_path / "b")}
    (item,) = from_folders(folders, Questions(None).roles).items
    assert item.texts == {"transcript": "it is rome"}
    assert item.answers == ["Rome", "Roma"]
    (tmp_path / "b" / "1.txt").write_text("\n")
    with pytest.raises(UserError, match=r"1\.txt' holds no answers; write one on every line"):
        from_folders(folders, Questions(None).roles)
    (tmp_path / "b" / "1.txt").unlink()
    (tmp_path / "b" / "1.json").write_text('{"answers": ["Rome", "Roma"]}')
    assert from_folders(folders, Questions(None).roles).items[0].answers == ["Rome", "Roma"]
    (tmp_path / "b" / "1.json").write_text('{"answers": [5]}')
    with pytest.raises(UserError, match=r"1\.json' holds no answers; write a text"):
        from_folders(folders, Questions(None).roles)
    (tmp_path / "a" / "1.json").write_text('{"transcript": 5}')
    with pytest.raises(UserError, match="'transcript' must be a text"):
        from_folders({"transcript": str(tmp_path / "a")}, ["transcript"])
    (tmp_path / "a" / "1.json").write_text("{}")
    with pytest.raises(UserError, match="holds no transcript"):
        from_folders(folders, Questions(None).roles)


def test_lines_of_a_manifest_end_where_json_says(tmp_path):
    path = tmp_path / "m.jsonl"
    row = {"answers": "a", "transcript": "one\u2028two"}
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(row, ensure_ascii=False).encode() + b"\n")
    (item,) = from_manifest(path, Questions(None).roles).items
    assert item.texts["transcript"] == "one\u2028two"
