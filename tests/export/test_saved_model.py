"""The format saved_model: plain TensorFlow says what a live model says, from samples and from WAV."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import tiny_exports
import tiny_speaker
import vocabulary_tables
from tiny_exports import one_sentence
from tiny_speaker import agree, prompts, same_sound

from spectron.export import saved_model

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.slow  # TensorFlow converts and runs the model four times

# In a process that can import neither: each batch of prompts through `samples`, and all through `serving_default`.
PLAIN = """
import sys
for name in ("jax", "jaxlib", "spectron", "flax"):
    sys.modules[name] = None
import numpy as np
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
given, found = np.load(sys.argv[2]), {}
many = len(given["lengths"])
for size in (1, 3, many):
    said = []
    for start in range(0, many, size):
        part = slice(start, start + size)
        longest = given["lengths"][part].max()
        said.append(model.signatures["samples"](
            samples=tf.constant(given["samples"][part, :longest]),
            lengths=tf.constant(given["lengths"][part]),
            seed=tf.constant(3),
        ))
        assert said[-1]["text"].dtype == tf.string
    for name in said[0]:
        whole = np.concatenate([each[name].numpy() for each in said])
        found[f"{name}_{size}"] = whole.astype(bytes) if whole.dtype == object else whole
wavs = [given[f"wav_{i}"].tobytes() for i in range(many)]
said = model.signatures["serving_default"](wav_bytes=tf.constant(wavs))
found["served"] = said["text"].numpy().astype(bytes)
for i, each in enumerate(said["wav_bytes"].numpy()):
    found[f"wav_{i}"] = np.frombuffer(each, np.uint8)

found["parameters"] = sum(int(np.prod(v.shape)) for v in model.weights.values())
for kind in sorted(k for k in given.files if k.startswith("bad_")):
    try:
        model.signatures["serving_default"](wav_bytes=tf.constant([given[kind].tobytes()]))
    except tf.errors.InvalidArgumentError as error:
        found[kind] = str(error)
for kind, size in (("bad_samples", 16001), ("bad_few", 4799)):
    try:
        model.signatures["samples"](
            samples=tf.zeros([1, size], tf.int16), lengths=tf.constant([size]), seed=tf.constant(0)
        )
    except tf.errors.InvalidArgumentError as error:
        found[kind] = str(error)
np.savez(sys.argv[3], **found)
"""


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "tiny"
    assert tiny_exports.run("export", "--checkpoint", checkpoint, "--out", out, "--format", "saved_model") == 0
    return out


def wav_content(path, *arguments):
    return np.frombuffer(tiny_speaker.write_wav(path, *arguments).read_bytes(), np.uint8)


@pytest.fixture(scope="module")
def said(folder, tmp_path_factory):
    """What plain TensorFlow says of six prompts."""
    place, given = tmp_path_factory.mktemp("plain"), prompts(6)
    samples = np.zeros((6, 16000), np.int16)
    for row, prompt in zip(samples, given, strict=True):
        row[: len(prompt)] = prompt
    arrays = {f"wav_{i}": wav_content(place / f"{i}.wav", prompt) for i, prompt in enumerate(given)}
    extensible = io.BytesIO()  # the same samples behind a header of another kind
    soundfile.write(extensible, given[1], 16000, format="WAVEX", subtype="PCM_16")
    arrays["wav_1"] = np.frombuffer(extensible.getvalue(), np.uint8)
    arrays["bad_rate"] = wav_content(place / "rate.wav", given[0], 8000)
    arrays["bad_channels"] = wav_content(place / "channels.wav", given[1][:10000], 16000, 2)
    arrays["bad_length"] = wav_content(place / "length.wav", np.ones(16001))
    arrays["bad_short"] = wav_content(place / "short.wav", np.ones(4799))
    lengths = np.array([len(prompt) for prompt in given], np.int32)
    np.savez(place / "given.npz", samples=samples, lengths=lengths, **arrays)
    words = [sys.executable, "-P", "-c", PLAIN, folder / "saved_model", place / "given.npz", place / "found.npz"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("XLA_")}
    done = subprocess.run([*map(str, words)], env=own, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return dict(np.load(place / "found.npz"))


@pytest.mark.parametrize("size", [1, 3, 6])
def test_samples_give_text_frames_and_samples(said, live, size):
    rows = [i % size for i in range(6)]  # a row draws by its place in the batch
    expected = live.generate(prompts(6), seed=3, numbers=rows, batch_size=3)
    assert len({answer.transcript for answer in expected}) > 1
    for i, answer in enumerate(expected):
        frames = said[f"frames_{size}"][i, : said[f"num_frames_{size}"][i]]
        samples = said[f"samples_{size}"][i, : said[f"num_samples_{size}"][i]]
        agree(said[f"text_{size}"][i].decode(), frames, samples, answer)
        assert said[f"stopped_{size}"][i] == (answer.stopped_by == "stop head")


def test_wav_gives_text_and_wav(said, live, tmp_path):
    for i, answer in enumerate(live.generate(prompts(6), seed=0, batch_size=3)):
        assert said["served"][i].decode() == answer.transcript
        (tmp_path / "answer.wav").write_bytes(said[f"wav_{i}"].tobytes())
        same_sound(tiny_speaker.read_wav(tmp_path / "answer.wav"), answer)


def test_weights_are_variables(said, folder):
    facts = json.loads((folder / "spectron.json").read_text(encoding="utf-8"))
    stored = sum(int(np.prod(tensor["shape"])) for tensor in facts["tensors"].values())
    bands = len(facts["statistics"]["mean"])
    assert said["parameters"] == stored + 2 * bands
    assert "saved_model/saved_model.pb" in facts["files"]
    assert 'tf.saved_model.load("saved_model")' in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("rate", "A prompt must have 16000 samples a second; resample it."),
        ("channels", "A prompt must have one channel; mix it down."),
        ("length", "A prompt is longer than the 1 s this model was trained for; cut it."),
        ("samples", "A prompt is longer than the 1 s this model was trained for; cut it."),
        ("short", "A prompt is shorter than 0.3 s; give more of the recording."),
        ("few", "A prompt is shorter than 0.3 s; give more of the recording."),
    ],
)
def test_what_it_refuses(said, kind, says):
    assert says in str(said[f"bad_{kind}"])


@pytest.mark.parametrize("kind", vocabulary_tables.KINDS)
def test_tensorflow_decodes_as_the_vocabulary_does(kind, tmp_path):
    vocabulary = vocabulary_tables.make(kind, tmp_path)
    table = json.loads(json.dumps(vocabulary.table()))
    ids = vocabulary_tables.rows(vocabulary, kind)
    found = tf.function(lambda ids: saved_model.detokenise(tf, ids, table))(tf.constant(ids)).numpy()
    for row, text in zip(ids.tolist(), found, strict=True):
        assert text.decode() == vocabulary.decode(row), row


def test_without_tensorflow_it_says_so(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    out = tmp_path / "out"
    assert tiny_exports.run("export", "--checkpoint", checkpoint, "--out", out, "--format", "saved_model") == 2
    one_sentence(capsys.readouterr().err, "TensorFlow", "pip install")
    assert not out.exists()
