"""The real judges of sound, where they are installed: resemblyzer, DNSMOS, PESQ, STOI."""

import importlib.util
import json
import math
import sys

import numpy as np
import pytest

from spectron.audio import wav
from spectron.evaluation.judges import sound_judges
from spectron.evaluation.score.items import from_manifest
from spectron.evaluation.score.metrics import Voices
from spectron.evaluation.score.suite import score
from spectron.types import UserError

WANTS = "the extra 'judges' is not installed"


def needs(*packages):
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"{', '.join(absent)}: {WANTS}")


def speech(data_dir, speakers=3, each=1):
    """int16 recordings, so many of each speaker."""
    folder = data_dir / "librispeech_train5"
    found: dict[str, list] = {}
    for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if len(found.setdefault(record["speaker"], [])) < each and record["duration"] > 5:
            found[record["speaker"]].append(wav.read(folder / record["audio"])[:48_000])
    return [recording for group in list(found.values())[:speakers] for recording in group]


@pytest.fixture(scope="module")
def resemblyzer():
    return sound_judges.Resemblyzer()


@needs("resemblyzer", "torch")
def test_voices_are_told_apart_and_company_changes_nothing(resemblyzer, data_dir):
    recordings = speech(data_dir, speakers=3, each=2)
    embedded = resemblyzer.embed([*recordings, np.zeros(16_000, np.int16), np.zeros(0, np.int16)])
    assert embedded.shape == (8, 256)
    np.testing.assert_allclose(np.linalg.norm(embedded[:6], axis=1), 1, rtol=1e-5)
    assert not embedded[6:].any()
    grid = embedded[:6] @ embedded[:6].T
    same = [grid[i, i + 1] for i in (0, 2, 4)]
    other = [grid[i, j] for i in range(6) for j in range(6) if i // 2 != j // 2]
    assert min(same) > np.mean(other) + 0.1
    np.testing.assert_allclose(resemblyzer.embed([recordings[3]])[0], embedded[3], atol=1e-5)
    assert "pkg_resources" not in sys.modules
    assert resemblyzer.facts["checksum"]
    assert resemblyzer.facts["version"]


@needs("resemblyzer", "torch")
def test_our_embeddings_are_the_librarys(resemblyzer, data_dir):
    (recording,) = speech(data_dir, speakers=1)
    library = resemblyzer._library
    theirs = resemblyzer._encoder.embed_utterance(library.preprocess_wav(recording.astype(np.float32) / 32768))
    np.testing.assert_allclose(resemblyzer.embed([recording])[0], theirs, atol=1e-5)


@needs("resemblyzer", "torch")
def test_the_published_samples_keep_the_voice_of_their_prompts(resemblyzer, data_dir, tmp_path):
    path = data_dir / "spectron_samples" / "samples.jsonl"
    items = from_manifest(path, Voices.roles, {"continuation": "spectron"}, {"task": "continuation"})
    row = score(Voices(resemblyzer), items, tmp_path, "Spectron").tables[0].rows["Spectron"]
    same, others = row["Speaker similarity"], row["To other prompts"]
    assert same.n == 17
    assert others.high < same.low < same.value < same.high
    assert same.value == pytest.approx(0.774, abs=0.005), "the README's figure"


@needs("speechmos", "onnxruntime", "requests")
def test_dnsmos_hears_noise(data_dir):
    judge = sound_judges.DNSMOS()
    (clean,) = speech(data_dir, speakers=1)
    noisy = (clean + np.random.default_rng(0).normal(0, 1500, len(clean))).clip(-32768, 32767).astype(np.int16)
    good, bad, nothing = judge.rate([clean, noisy, np.zeros(16_000, np.int16)])
    assert set(good) == set(judge.measures)
    assert all(1 <= value <= 5 for value in good.values())
    assert good["DNSMOS overall"] > bad["DNSMOS overall"] + 0.5
    assert all(map(math.isnan, nothing.values()))


@pytest.mark.parametrize(
    ("kind", "package", "perfect"), [(sound_judges.PESQ, "pesq", 4.64), (sound_judges.STOI, "pystoi", 1.0)]
)
def test_a_copy_is_perfect_and_noise_is_not(kind, package, perfect, data_dir):
    pytest.importorskip(package, reason=WANTS)
    judge = kind()
    (name,) = judge.measures
    (clean,) = speech(data_dir, speakers=1)
    noisy = (clean + np.random.default_rng(0).normal(0, 1500, len(clean))).clip(-32768, 32767).astype(np.int16)
    silence = np.zeros_like(clean)
    found = judge.rate([clean, noisy, clean[:-800], silence[:1000]], [clean, clean, clean, silence[:1000]])
    same, worse, shorter, nothing = (each[name] for each in found)
    assert same == pytest.approx(perfect, abs=0.01)
    assert worse < same - 0.05
    assert shorter == pytest.approx(perfect, abs=0.01)
    assert math.isnan(nothing)
    with pytest.raises(UserError, match="same utterance in the same time"):
        judge.rate([clean], [clean[:-8000]])


@pytest.mark.parametrize(
    ("kind", "package"),
    [
        (sound_judges.Resemblyzer, "resemblyzer"),
        (sound_judges.DNSMOS, "speechmos"),
        (sound_judges.PESQ, "pesq"),
        (sound_judges.STOI, "pystoi"),
    ],
)
def test_a_judge_that_is_not_installed_says_how_to_get_it(kind, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install 'spectron-jax\[judges\]'"):
        kind()
