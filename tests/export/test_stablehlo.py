"""The format stablehlo: what a live model says, said by jax, numpy and safetensors alone."""

import ast
import importlib.metadata
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
import tiny_exports
import tiny_speaker
import vocabulary_tables
from tiny_exports import one_sentence
from tiny_speaker import agree, prompts, read_wav, same_sound, write_wav

from spectron.export import functions
from spectron.inference import decode
from spectron.inference.api import Spectron
from spectron.models.decode_layout import to_decode_layout

NEEDED = ("jax", "jaxlib", "numpy", "safetensors", "ml_dtypes", "opt_einsum", "scipy")
BARE = """
import importlib.util, runpy, sys
sys.path.append(sys.argv.pop(1))
for name in ("flax", "orbax", "spectron", "flatbuffers", "tensorflow", "soundfile"):
    assert importlib.util.find_spec(name) is None, name
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def load_loader(folder: Path):
    """The loader of an export as a module."""
    spec = importlib.util.spec_from_file_location("exported_loader", folder / "loader.py")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "tiny"
    assert tiny_exports.run("export", "--checkpoint", checkpoint, "--out", out, "--format", "stablehlo") == 0
    return out


@pytest.fixture(scope="module")
def loader(folder):
    return load_loader(folder)


@pytest.fixture(scope="module")
def model(loader):
    return loader.Model()


@pytest.fixture(scope="module")
def answers(live):
    return live.generate(prompts(10), seed=3, batch_size=4)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 10])
def test_five_batch_sizes_and_ten_lengths(model, answers, size):
    given = prompts(10)
    said = []
    for start in range(0, 10, size):
        numbers = list(range(start, min(start + size, 10)))
        said += model.generate_all([given[i] for i in numbers], seed=3, numbers=numbers)
    assert len({answer.text for answer in said}) > 1
    for answer, expected in zip(said, answers, strict=True):
        agree(*answer, expected)


@pytest.mark.parametrize(("rows", "size"), [(1, 4800), (2, 5001), (3, 12345)])
def test_rows_and_lengths_are_free(model, live, rows, size):
    """Functions called with sizes of the caller's own, a position at a time."""
    given = np.stack(prompts(rows, size, size))
    lengths = np.full(rows, size, np.int32)
    config, numbers = live.decode_config, np.arange(rows, dtype=np.int32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), numbers)
    weights = to_decode_layout(live.params, np.float32)
    expected = decode.decode(weights, live.statistics, given, lengths, keys, config=config)
    forced = np.full((rows, config.text_tokens), -1, np.int32)
    state = model.prefill(model.weights, given, lengths, np.uint32(7), numbers, forced)
    steps = 0
    while not state["done"].all():
        state, steps = model.step(model.weights, state, np.int32(1)), steps + 1
    assert steps > 1
    said = model.finish(model.weights, state)
    np.testing.assert_array_equal(said["text"], expected.text)
    np.testing.assert_array_equal(said["num_tokens"], expected.num_tokens)
    np.testing.assert_array_equal(said["num_frames"], expected.num_frames)
    np.testing.assert_array_equal(said["stopped"], expected.stopped)
    np.testing.assert_allclose(said["frames"], expected.frames, atol=1e-4)


def test_a_forced_text_is_written(model, live):
    sample = prompts(1)[0]
    forced = np.full((1, live.decode_config.text_tokens), -1, np.int32)
    forced[0, :3] = 5, 7, 1
    lengths, zero = np.array([len(sample)], np.int32), np.zeros(1, np.int32)
    rows = model.prefill(model.weights, sample[None], lengths, np.uint32(0), zero, forced)
    while not rows["done"].all():
        rows = model.step(model.weights, rows, np.int32(1000))
    assert model.text(np.asarray(rows["text"])[0].tolist()) == "one three"


def test_the_loader_is_a_page_that_imports_three_packages():
    path = Path(functions.__file__).with_name("loader.py")
    text = path.read_text(encoding="utf-8")
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"jax", "numpy", "safetensors"}
    assert text.count("\n") <= 110


def bare_environment(folder: Path) -> Path:
    """A folder with links to the needed distributions and nothing else."""
    for name in NEEDED:
        distribution = importlib.metadata.distribution(name)
        tops = {Path(file).parts[0] for file in distribution.files if ".." not in Path(file).parts}
        for top in sorted(tops):
            source, target = Path(distribution.locate_file(top)), folder / top
            if source.exists() and not target.exists():
                target.symlink_to(source)
    return folder


def test_a_bare_environment_turns_wav_into_text_and_wav(folder, live, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    bare_environment(bare)
    given = write_wav(tmp_path / "prompt.wav", prompts(1)[0])
    copy, answer = tmp_path / "copy", tmp_path / "answer.wav"
    shutil.copytree(folder, copy)  # where it was made is of no matter
    words = [sys.executable, "-I", "-S", "-c", BARE, bare, copy / "loader.py", given, answer]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    expected = live.generate(given)
    assert done.stdout == expected.transcript + "\n"
    same_sound(read_wav(answer), expected)


def test_jax_011_runs_it_too(folder, live, tmp_path):
    python = os.environ.get("SPECTRON_JAX011_PYTHON")
    if not python:
        pytest.skip("no interpreter with jax 0.11: name one in SPECTRON_JAX011_PYTHON")
    say = "import jax; print(jax.__version__)"
    found = subprocess.run([python, "-I", "-c", say], capture_output=True, text=True, check=True).stdout.strip()
    assert tuple(map(int, found.split(".")[:2])) >= (0, 11), f"SPECTRON_JAX011_PYTHON has jax {found}"
    given, answer = write_wav(tmp_path / "prompt.wav", prompts(1)[0]), tmp_path / "answer.wav"
    words = [python, "-I", folder / "loader.py", given, answer]
    own = {name: value for name, value in os.environ.items() if not name.startswith(("XLA_", "JAX_"))}
    own["JAX_PLATFORMS"] = "cpu"  # ours may be flags that it does not know
    done = subprocess.run([*map(str, words)], env=own, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    expected = live.generate(given)
    assert done.stdout == expected.transcript + "\n"
    same_sound(read_wav(answer), expected)


def test_what_the_loader_refuses(model, folder, loader, tmp_path, capsys):
    for samples, says in ((np.ones(16001, np.int16), "1.00 s: give 0.3 to 1 s"), (np.ones(100, np.int16), "0.01 s")):
        with pytest.raises(ValueError, match=says):
            model.generate(samples)
    good = prompts(1)[0]
    with pytest.raises(ValueError, match="expected int16"):
        model.generate(good / 32768)
    for name, rate, channels, says in (("slow", 8000, 1, "8000 Hz"), ("wide", 16000, 2, "channels: 2")):
        with pytest.raises(ValueError, match=says):
            loader.main(str(write_wav(tmp_path / f"{name}.wav", good, rate, channels)), str(tmp_path / "out.wav"))
    assert not (tmp_path / "out.wav").exists()


def test_the_loader_reads_extensible_headers(loader, tmp_path):
    content = io.BytesIO()
    soundfile.write(content, prompts(1)[0], 16000, format="WAVEX", subtype="PCM_16")
    with wave.open(io.BytesIO(loader.plain(content.getvalue()))) as file:
        found = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    np.testing.assert_array_equal(found, prompts(1)[0])


def test_mistakes_on_the_loaders_command_line(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    loader = [sys.executable, str(copy / "loader.py")]
    done = subprocess.run(loader, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (2, "loader: give two names: python loader.py PROMPT.wav ANSWER.wav.\n")
    (tmp_path / "junk.wav").write_bytes(b"RIFF")
    say = [*loader, str(tmp_path / "junk.wav"), str(tmp_path / "out.wav")]
    done = subprocess.run(say, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2 and done.stderr.startswith("loader: ") and done.stderr.count("\n") == 1
    with (copy / "weights.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\1\2\3\4")
    done = subprocess.run(say, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "loader: weights.safetensors is not the file that was exported: copy the folder again.\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("model.scan_layers=False", "model.lm.tie_embeddings=True", "model.frames.prenet_dropout=0.0"),
        ("features.dft=matmul", "model.frames.go=zeros", "model.frames.frames_per_step=1"),
    ],
)
def test_other_models(tmp_path, overrides):
    checkpoint, out = tiny_speaker.write_checkpoint(tmp_path / "run", *overrides), tmp_path / "out"
    assert tiny_exports.run("export", "--checkpoint", checkpoint, "--out", out, "--format", "stablehlo") == 0
    given = prompts(2)
    expected = Spectron.from_checkpoint(checkpoint).generate(given, seed=1)
    for answer, each in zip(load_loader(out).Model(out).generate_all(given, seed=1), expected, strict=True):
        agree(*answer, each)


def test_int8_is_undone_by_what_reads_the_weights(checkpoint, tmp_path):
    wide = tiny_speaker.write_checkpoint(tmp_path / "wide", "model.lm.ff_dim=320")  # so that some matrix is large
    out = tmp_path / "int8"
    words = ("export", "--checkpoint", wide, "--out", out, "--format", "stablehlo", "--quantise", "int8")
    assert tiny_exports.run(*words) == 0
    facts = json.loads((out / "spectron.json").read_text(encoding="utf-8"))
    assert any(tensor["dtype"] == "I8" for tensor in facts["tensors"].values())
    given = prompts(2)
    expected = Spectron.from_checkpoint(out).generate(given, seed=1)
    for answer, each in zip(load_loader(out).Model(out).generate_all(given, seed=1), expected, strict=True):
        agree(*answer, each)


def test_a_model_without_a_voice_is_refused(tmp_path, capsys):
    checkpoint = tiny_exports.write_checkpoint(tmp_path / "ctc", objective="ctc")
    out = tmp_path / "out"
    assert tiny_exports.run("export", "--checkpoint", checkpoint, "--out", out, "--format", "stablehlo") == 2
    one_sentence(capsys.readouterr().err, "spectron stage", "safetensors")
    assert not out.exists()


def test_files_do_not_tell_where_they_were_made(folder, checkpoint, tmp_path):
    root = str(Path(functions.__file__).resolve().parents[2]).encode()
    for path in (folder / "stablehlo").iterdir():
        assert root not in path.read_bytes(), path
    again = tmp_path / "again"
    assert tiny_exports.run("export", "--checkpoint", checkpoint, "--out", again, "--format", "stablehlo") == 0
    for path in sorted(again.rglob("*")):
        assert path.is_dir() or path.read_bytes() == (folder / path.relative_to(again)).read_bytes(), path


def test_the_readme_and_the_facts_know_the_files(folder):
    facts = json.loads((folder / "spectron.json").read_text(encoding="utf-8"))
    readme = (folder / "README.md").read_text(encoding="utf-8")
    names = ["loader.py", *(f"stablehlo/{name}.bin" for name in ("prepare", "prefill", "step", "finish", "waveform"))]
    for name in names:
        assert name in facts["files"] and name in readme
    assert "python loader.py" in readme and "{" not in readme.split("## StableHLO")[1].split("```")[4]


@pytest.mark.parametrize("kind", vocabulary_tables.KINDS)
def test_the_loader_decodes_as_the_vocabulary_does(loader, kind, tmp_path):
    vocabulary = vocabulary_tables.make(kind, tmp_path)
    reader = object.__new__(loader.Model)
    reader.table = json.loads(json.dumps(vocabulary.table()))
    for ids in vocabulary_tables.rows(vocabulary, kind).tolist():
        assert reader.text(ids) == vocabulary.decode(ids), ids
