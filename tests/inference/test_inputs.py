"""What `spectron generate` is given, found and named."""

import json
from pathlib import Path

import pytest

from spectron import cli
from spectron.inference.inputs import find_inputs
from spectron.types import UserError


def test_inputs_of_every_kind(tmp_path):
    for name in ("a/x.wav", "a/b/y.FLAC", "a/b/z.txt", "c/x.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    lines = [{"audio": "a/x.wav"}, {"audio": "c/x.wav", "id": "second"}, {"audio": "../out.wav"}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def names(*given):
        return [each.name for each in find_inputs([str(tmp_path / name) for name in given], tmp_path / "out")]

    assert names("a") == ["b/y", "x"]
    assert names("**/x.wav") == ["a/x", "c/x"]
    assert names("a/x.wav", "a/b/y.FLAC") == ["x", "y"]
    assert names("m.jsonl") == ["a/x", "out", "second"]
    assert find_inputs([str(tmp_path / "m.jsonl")], "out")[2].path == tmp_path / "c" / "x.wav"
    assert names("a", "a", "a/x.wav") == ["b/y", "x"]
    for given, words in (
        (["a/x.wav", "c/x.wav"], "both be written as 'x'"),
        (["a/b/*.mp3"], "has no audio"),
        (["a", "c/x.wav"], "rename one"),
    ):
        with pytest.raises(UserError, match=words):
            names(*given)
    (tmp_path / "m.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(UserError, match='has no "audio"'):
        names("m.jsonl")
    with pytest.raises(UserError, match="empty string"):
        find_inputs([""], "out")


@pytest.mark.parametrize(
    ("given", "name"), [("a//b", "a/b"), ("c/", "c"), ("/d", "d"), ("../e", "e"), (0, "0"), (".", None), ("..", None)]
)
def test_an_id_stays_below_out(given, name, tmp_path):
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio": "x.wav", "id": given}))
    if name is None:
        with pytest.raises(UserError, match=r"line 1, names .*no name"):
            find_inputs([str(tmp_path / "m.jsonl")], "out")
    else:
        assert [each.name for each in find_inputs([str(tmp_path / "m.jsonl")], "out")] == [name]


def test_answers_are_neither_heard_nor_put_in_place_of_recordings(tmp_path, monkeypatch):
    for name in ("x.wav", ".hidden.wav", "out/x.wav", "out/b/y.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [each.name for each in find_inputs([str(tmp_path)], tmp_path / "out")] == ["x"]
    assert [each.name for each in find_inputs([str(tmp_path / "**" / "*.wav")], tmp_path / "out")] == ["x"]
    monkeypatch.chdir(tmp_path)
    assert [each.name for each in find_inputs(["*.wav"], "out")] == ["x"]
    (tmp_path / "m.jsonl").write_text('{"audio": "x.wav"}')
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "m.jsonl").write_text('{"audio": "../y.wav", "id": "x"}\n{"audio": "../x.wav", "id": "z"}')
    for given in (str(tmp_path), "x.wav", "*.wav", "m.jsonl", "below/m.jsonl"):
        with pytest.raises(UserError, match="choose another"):
            find_inputs([given], ".")
    assert [each.name for each in find_inputs(["out/b/y.wav"], "out")] == ["y"]


def test_links_suffixes_and_formats(tmp_path, caplog):
    for name in ("in/a.WAV", "in/b.wave", "in/c.aiff", "in/d.w64", "in/e.m4a", "in/f.webm", "in/g.sph", "far/h.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    root = tmp_path / "in"
    (root / "link").symlink_to(tmp_path / "far")
    (root / "ring").symlink_to(root)
    (tmp_path / "far" / "ring").symlink_to(root)
    for given in (str(root), str(root / "**"), str(root / "**" / "*"), str(root / "*")):
        caplog.clear()
        wanted = ["a", "b", "c", "d", *(["link/h"] if given != str(root / "*") else [])]
        assert [each.name for each in find_inputs([given], tmp_path / "out")] == wanted
        assert caplog.text.count("passed over") == 1
        assert f"3 files passed over: 1 .m4a, 1 .webm, 1 .sph (the first: {root / 'e.m4a'}); convert" in caplog.text
    for path in root.glob("[abcd].*"):
        path.unlink()
    (root / "link").unlink()
    with pytest.raises(UserError, match=r"has no audio .*3 files passed over: 1 \.m4a"):
        find_inputs([str(root)], tmp_path / "out")
    assert [each.name for each in find_inputs([str(root / "e.m4a")], tmp_path / "out")] == ["e"]  # refused when read


@pytest.mark.parametrize("command", ["train", "export", "import", "--out", "--checkpoint", "input"])
def test_addresses_are_no_folders(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config, far = Path(__file__).parents[2] / "configs" / "quickstart.py", "ftp://host/x"
    words = {
        "train": ("train", config, "--workdir", far),
        "export": ("export", "--checkpoint", "run", "--out", far),
        "import": ("import", "run", "--out", far),
        "--out": ("generate", "--checkpoint", "run", "--out", far, __file__),
        "--checkpoint": ("generate", "--checkpoint", far, "--out", "out", __file__),
        "input": ("generate", "--checkpoint", "run", "--out", "out", far),
    }
    assert cli.main([str(word) for word in words[command]]) == 2
    said = capsys.readouterr().err
    assert said.count("spectron: ") == 1 and "is an address" in said
    assert not list(tmp_path.iterdir())
