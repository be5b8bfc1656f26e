"""The likelihood by hand, and every layout of pairs."""

import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import tiny

from spectron import cli
from spectron.audio import wav
from spectron.audio.features import log_mel, normalise
from spectron.data.recording_pairs import Pair, read_pairs
from spectron.evaluation.suites import likelihood
from spectron.evaluation.suites.likelihood import accuracies
from spectron.inference.api import Spectron
from spectron.inference.likelihood import LOG_Z, Likelihood, log_likelihood
from spectron.objectives.joint import feedback, go_frames, make_model
from spectron.types import Sequence, UserError

STATISTICS = tiny.statistics()


@pytest.fixture(scope="module")
def generator():
    experiment = tiny.experiment(prenet_dropout=0.0)
    model = make_model(experiment)
    prompt, samples, lengths = tiny.sequence([9, 20], 8), jnp.zeros((2, 4000), jnp.int16), jnp.asarray([2000, 4000])
    tokens = Sequence(jnp.full((2, 5), 4), jnp.ones((2, 5), bool))
    steps = feedback(tiny.sequence([7, 9], 8), go_frames(prompt, experiment.model.frames), 2)
    params = tiny.unbox(jax.jit(model.init)(jax.random.key(0), samples, lengths, STATISTICS, tokens, steps)["params"])
    return Spectron(params, experiment, STATISTICS)


def noise(*sizes):
    rng = np.random.default_rng(1)
    return [rng.integers(-4000, 4000, size).astype(np.int16) for size in sizes]


def test_the_density_is_one():
    d = np.linspace(-12, 12, 2_000_001)
    assert np.trapezoid(np.exp(-np.abs(d) - d**2), d) == pytest.approx(math.exp(LOG_Z), rel=1e-6)


def test_it_is_what_the_module_says(generator):
    """One recording, through the model's own call: −|d| − d² of every band and the text's logits."""
    experiment, features = generator.experiment, generator.features
    (recording,) = noise(4321)
    size = round(0.1 * features.sample_rate)
    text = generator.vocabulary.decode([4, 5])
    found = log_likelihood(generator, [recording], 0.1, [text], batch_size=2)[0]

    def mel(samples):
        return normalise(log_mel(samples[None], jnp.asarray([len(samples)]), features), STATISTICS)

    start = features.num_frames(size)
    prompt, rest = mel(recording[:size]), np.asarray(mel(recording).values)[0, start:]
    padded = np.pad(rest, ((0, len(rest) % 2), (0, 0)))
    continuation = Sequence(jnp.asarray(padded[None]), jnp.arange(len(padded))[None] < len(rest))
    steps = feedback(continuation, go_frames(prompt, experiment.model.frames), 2)
    tokens = Sequence(jnp.asarray([[2, 4, 5]]), jnp.ones((1, 3), bool))
    model = make_model(experiment)
    samples, lengths = jnp.asarray(recording[None, :size]), jnp.asarray([size])
    out = jax.jit(model.apply)({"params": generator.params}, samples, lengths, STATISTICS, tokens, steps)
    apart = np.abs(rest - np.asarray(out.frames)[0, : len(rest)])
    logits = model.apply({"params": generator.params}, out.text_hidden, method="logits")
    spelled = jax.nn.log_softmax(logits)[0][jnp.arange(3), jnp.asarray([4, 5, 1])].sum()
    assert found.num_frames == len(rest)
    assert found.tokens == 3
    assert found.frames == pytest.approx(-(apart + apart**2).sum() - apart.size * LOG_Z, rel=1e-4)
    assert found.text == pytest.approx(float(spelled), rel=1e-4)


def test_neighbours_and_batches_change_nothing(generator):
    recordings = noise(3000, 4000, 2000)
    together = log_likelihood(generator, recordings, 0.1, batch_size=4)
    alone = [log_likelihood(generator, [x], 0.1, batch_size=4)[0] for x in recordings]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_what_is_too_long_is_not_scored(generator):
    data, rate = generator.experiment.data, generator.features.sample_rate
    (long,) = noise(round(3 * (data.max_prompt_seconds + data.max_continuation_seconds) * rate))
    found = log_likelihood(generator, [long], data.max_prompt_seconds, batch_size=2)[0]
    assert found.num_frames == generator.features.num_frames(round(data.max_continuation_seconds * rate))


def write(folder, *names):
    for name, samples in zip(names, noise(*[3000] * len(names)), strict=True):
        wav.write(folder / name, samples, 16_000)


def test_layouts(tmp_path):
    write(tmp_path / "sc", "1_correct.wav", "1_incorrect.wav", "a/2_correct.wav", "a/2_incorrect.wav")
    assert [pair[:2] for pair in read_pairs(tmp_path / "sc")] == [("1", ""), ("a/2", "a")]
    write(tmp_path / "salmon", "rir/sample_10_0.wav", "rir/sample_10_1.wav", "rir/sample_9_a.wav", "rir/sample_9_b.wav")
    found = read_pairs(tmp_path / "salmon")
    assert [(pair.id, pair.group, pair.good.name) for pair in found] == [
        ("rir/9", "rir", "sample_9_a.wav"), ("rir/10", "rir", "sample_10_0.wav"),
    ]  # fmt: skip
    write(tmp_path / "zero" / "dev", "x.wav", "y.wav", "z.wav", "w.wav")
    rows = ["id,filename,voice,correct", "1,x,A,1", "1,y,A,0", "1,z,B,1", "1,w.wav,B,0"]
    (tmp_path / "zero" / "gold.csv").write_text("\n".join(rows))
    found = read_pairs(tmp_path / "zero" / "dev")
    assert [(pair.id, pair.good.name, pair.bad.name) for pair in found] == [
        ("1/A/y", "x.wav", "y.wav"), ("1/B/w", "z.wav", "w.wav"),
    ]  # fmt: skip
    assert [pair.item for pair in found] == ["1", "1"]
    (tmp_path / "pairs.jsonl").write_text('{"good": "sc/1_correct.wav", "bad": "sc/1_incorrect.wav", "group": "g"}\n\n')
    assert read_pairs(tmp_path / "pairs.jsonl")[0][:2] == ("1", "g")
    one = {"id": "a\u2028b", "good": "sc/1_correct.wav", "bad": "sc/1_incorrect.wav", "item": "w"}
    (tmp_path / "pairs.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(one, ensure_ascii=False).encode() + b"\r\n")
    (found,) = read_pairs(tmp_path / "pairs.jsonl")
    assert (found.id, found.item) == ("a\u2028b", "w")


def test_layouts_with_links_and_other_formats(tmp_path, caplog):
    write(tmp_path / "far", "1_correct.flac", "1_incorrect.wav", "sample_1_a.flac", "sample_1_b.flac")
    (tmp_path / "far" / "1_incorrect.wav").rename(tmp_path / "far" / "1_incorrect.WAV")
    (tmp_path / "far" / "2_correct.m4a").write_bytes(b"x")
    (tmp_path / "sc").mkdir()
    (tmp_path / "sc" / "link").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "ring").symlink_to(tmp_path / "sc")
    found = read_pairs(tmp_path / "sc")
    assert [(pair.id, pair.good.name, pair.bad.name) for pair in found] == [
        ("link/1", "1_correct.flac", "1_incorrect.WAV"), ("link/1", "sample_1_a.flac", "sample_1_b.flac"),
    ]  # fmt: skip
    assert "1 file passed over: 1 .m4a" in caplog.text
    (tmp_path / "far" / "gold.csv").write_bytes("\ufeffid,filename,correct\r1,1_correct,1\r1,1_incorrect,0".encode())
    assert [pair.bad.name for pair in read_pairs(tmp_path / "far")] == ["1_incorrect.WAV"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"p.jsonl": '{"good": "a.wav"}'}, "line 1, is no pair"),
        ({"p.jsonl": '{"good": "a.wav", "bad": "b.wav"}'}, "'1': recording .*a.wav' is not there"),
        ({"p.jsonl": ""}, "holds no pairs; give a JSONL"),
        ({"gold.csv": "id,file\n1,x"}, "has no column 'filename'"),
        ({"gold.csv": b"id\xff"}, "gold.csv', line 1, is not UTF-8"),
        ({"gold.csv": "id,filename,correct\n1,x"}, "gold.csv', line 2: a row needs id, filename and correct"),
        ({"gold.csv": "id,filename,correct\n1,x,yes"}, "line 2: a row needs"),
        ({"p.jsonl": b"\xff"}, "p.jsonl', line 1, is not UTF-8"),
        ({"part/sample_1_x.wav": ""}, "has no second recording"),
    ],
)
def test_wrong_pairs_are_one_sentence(tmp_path, content, message):
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    path = tmp_path / "p.jsonl" if "p.jsonl" in content else tmp_path
    with pytest.raises(UserError, match=message):
        read_pairs(path)
    with pytest.raises(UserError, match="is not there; give a JSONL"):
        read_pairs(tmp_path / "nothing")


def records(good, bad):
    return [{"good": a._asdict(), "bad": b._asdict()} for a, b in zip(good, bad, strict=True)]


def test_accuracies_by_group_with_ties():
    pairs = [Pair(str(i), group, None, None) for i, group in enumerate("aab")]
    good = [Likelihood(-10, 10, -3, 3), Likelihood(-10, 10, -3, 3), Likelihood(-10, 5, -3, 3)]
    bad = [Likelihood(-30, 20, -3, 3), Likelihood(-10, 10, -9, 3), Likelihood(-9, 10, -9, 3)]
    rows = accuracies(pairs, records(good, bad)).rows
    values = {name: {column: figure.value for column, figure in row.items()} for name, row in rows.items()}
    assert values["a"] == {"frames": 0.75, "text": 0.75, "both": 1.0}
    assert values["b"] == {"frames": 0.0, "text": 1.0, "both": 1.0}
    assert rows["all"]["frames"].n == 3


def test_pairs_of_one_item_count_as_one():
    """Three pairs of a word (all right) and one of another (wrong): half of the items, not three quarters."""
    pairs = [Pair(str(i), "", None, None, item) for i, item in enumerate("aaab")]
    good = [Likelihood(-1, 1, -1, 1)] * 4
    bad = [Likelihood(-2, 1, -2, 1)] * 3 + [Likelihood(0, 1, 0, 1)]
    figure = accuracies(pairs, records(good, bad)).rows["all"]["both"]
    assert (figure.value, figure.n) == (0.5, 2)
    assert "decoding seeds" not in figure.definition
    assert "its pairs" in figure.definition


def test_what_the_model_writes_costs_no_speech(generator, monkeypatch):
    recordings = noise(3000, 2000)
    said = [answer.transcript for answer in generator.generate(recordings, batch_size=2)]
    assert generator.generate_text(recordings, 2) == said
    monkeypatch.setattr(generator, "generate", None)  # whoever speaks fails
    assert len(log_likelihood(generator, recordings, 0.1, batch_size=2)) == 2


@pytest.fixture
def loaded(generator, tmp_path, monkeypatch):
    """A checkpoint whose weights are what is in a file."""
    monkeypatch.setattr(Spectron, "from_checkpoint", classmethod(lambda cls, _: generator))
    monkeypatch.setattr(
        likelihood.Checkpoint,
        "open",
        classmethod(lambda cls, path: SimpleNamespace(facts={"checkpoint": path, "weights": weights["sum"]})),
    )
    weights = {"sum": "1"}
    return weights


def run(tmp_path, out="out", **more):
    return likelihood.evaluate_likelihood("c", tmp_path / "sc", tmp_path / out, 0.1, 4, **more)


def test_other_weights_and_other_recordings_are_refused(loaded, tmp_path):
    write(tmp_path / "sc", "1_correct.wav", "1_incorrect.wav")
    results = run(tmp_path)
    assert results.facts["weights"] == "1"
    assert results.facts["jax"].startswith(jax.__version__)
    loaded["sum"] = "2"
    with pytest.raises(UserError, match="another weights"):
        run(tmp_path)
    loaded["sum"] = "1"
    assert run(tmp_path).to_json() == results.to_json()
    wav.write(tmp_path / "sc" / "1_incorrect.wav", noise(3100)[0], 16_000)
    with pytest.raises(UserError, match="another data"):
        run(tmp_path)


def test_a_recording_without_a_frame_is_named(loaded, tmp_path):
    write(tmp_path / "sc", "1_correct.wav")
    wav.write(tmp_path / "sc" / "1_incorrect.wav", noise(1)[0], 16_000)
    with pytest.raises(UserError, match=r"1_incorrect\.wav' is too short"):
        run(tmp_path)


def test_a_few_pairs_are_evenly_spread(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(likelihood.LikelihoodSuite, "max_rows", 2)
    write(tmp_path / "sc", *[f"{i}_{kind}.wav" for i in range(5) for kind in ("correct", "incorrect")])
    run(tmp_path, limit=3)
    lines = map(json.loads, (tmp_path / "out" / "items.jsonl").read_text().splitlines())
    assert [line["id"] for line in lines] == ["0", "2", "4"]
    assert "2 of 3 items are shown" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(UserError, match="--limit -1"):
        run(tmp_path, limit=-1)
    for seconds in (0, math.nan, math.inf):
        with pytest.raises(UserError, match=r"--prompt-seconds .* must be a number above 0"):
            likelihood.evaluate_likelihood("c", tmp_path / "sc", tmp_path / "other", seconds)


def test_the_command_goes_on_where_it_was_killed(loaded, tmp_path, monkeypatch, capsys):
    names = [f"{i}_{kind}.wav" for i in range(5) for kind in ("correct", "incorrect")]
    write(tmp_path / "sc", *names)
    scored, kills, real = [], [True], likelihood.log_likelihood

    def score(generator, recordings, *arguments, **more):
        if len(scored) == 2 and kills:
            kills.clear()
            raise KeyboardInterrupt
        scored.append(len(recordings))
        return real(generator, recordings, *arguments, **more)

    monkeypatch.setattr(likelihood, "log_likelihood", score)
    command = [
        "evaluate",
        "likelihood",
        "--checkpoint",
        "c",
        "--pairs",
        str(tmp_path / "sc"),
        "--prompt-seconds",
        "0.1",
    ]
    command += ["--batch-size", "4", "--out", str(tmp_path / "out")]
    assert cli.main(command) == 130
    assert cli.main(command) == 0
    assert scored == [4, 4, 2]
    held = json.loads((tmp_path / "out" / "results.json").read_text())
    assert held["tables"][0]["rows"]["all"]["both"]["n"] == 5
    assert len((tmp_path / "out" / "items.jsonl").read_text().splitlines()) == 5
    assert "95 % interval" in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<audio") == 10
    assert cli.main([*command, "--prompt-seconds", "0.05"]) == 2
    assert "another prompt_seconds" in capsys.readouterr().err
