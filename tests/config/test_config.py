"""Configuration: overrides that name what is wrong, the round trip to JSON, and every file in configs/."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron.config import (
    AdamConfig,
    Choice,
    ConformerConfig,
    DataConfig,
    Experiment,
    FeatureConfig,
    FrozenConfig,
    JointConfig,
    MixtureConfig,
    ModelConfig,
    MuonConfig,
    StageConfig,
    StreamConfig,
    TaskConfig,
    TextLMConfig,
    WordsConfig,
    build,
    from_json,
    load_experiment,
    override,
    to_json,
)
from spectron.data.prepared import Prepared
from spectron.types import UserError

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.py"))


def example() -> Experiment:
    """Two stages with a stream each, a task and a mixture."""
    streams = (StreamConfig(JointConfig(), "mix"), StreamConfig(TextLMConfig(), "texts", batch_size=8))
    return Experiment(
        name="example",
        data=DataConfig(
            tasks=(TaskConfig("speech", "counting"), TaskConfig("texts", "counting_text")),
            mixtures=(MixtureConfig("mix", (("speech", 1.0),)),),
            vocabulary=WordsConfig(("one", "two")),
        ),
        stages=(StageConfig("lm", streams[1:]), StageConfig("joint", streams, start_from=(("lm", "lm"),))),
    )


def fails(*assignments: str) -> str:
    with pytest.raises(UserError) as caught:
        override(example(), assignments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_overrides_reach_every_level_and_change_nothing_else():
    new = override(
        example(),
        ["seed=7", "model.encoder.specaugment.num_time_blocks=3", "stages.joint.streams.text_lm.batch_size=4",
         "stages.0.steps=5", "data.tasks.speech.root=a=b", "features.log_floor=1e-3", "model.scan_layers=false"],
    )  # fmt: skip
    assert new.seed == 7
    assert new.model.encoder.specaugment.num_time_blocks == 3
    assert new.stage("joint").streams[1].batch_size == 4
    assert new.stage("lm").streams[0].batch_size == 8
    assert new.stages[0].steps == 5
    assert new.data.tasks[0].root == "a=b"
    assert new.features.log_floor == 1e-3
    assert new.model.scan_layers is False
    assert override(new, ["model.scan_layers=true"]).model.scan_layers is True
    assert dataclasses.replace(example(), model=new.model) == override(
        example(), ["model.encoder.specaugment.num_time_blocks=3", "model.scan_layers=0"]
    )


def test_later_overrides_win_and_none_change_nothing():
    assert override(example(), ["seed=1", "seed=2"]).seed == 2
    assert override(example(), []) == example()


def test_tuples_are_given_as_json():
    new = override(example(), ['mesh=[["data", 4], ["fsdp", 2]]', 'data.vocabulary.words=["a", "b"]'])
    assert new.mesh == (("data", 4), ("fsdp", 2))
    assert new.data.vocabulary.words == ("a", "b")


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("model.encoder.num_layer=3", "did you mean 'num_layers'?"),
        ("modle.encoder.dim=3", "did you mean 'model'?"),
        ("stages.jiont.steps=3", "did you mean 'joint'?"),
        ("stages.joint.streams.ctx.weight=1", "known: spectron, text_lm"),
        ("zzz=1", "known: name, data, stages"),
        ("stages.9.steps=1", "there is no '9'"),
        ("stages.joint=1", "give the whole list"),
        ("seed.low=1", "'seed' is a plain value"),
        ("seed", "has no '='"),
        ("seed=", "'' is not a whole number"),
        ("seed=1.5", "1.5 is not a whole number"),
        ("features.low_hz=low", "low is not a number"),
        ("model.scan_layers=yes", "yes is not true or false"),
        ('mesh=[["data", "4"]]', "4 is not a whole number"),
        ('mesh=[["data"]]', "must have 2 parts, not 1"),
        ("mesh={", "is not valid JSON"),
        ('mesh={"data": 4}', "must be a list"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_key_and_a_way_out(assignment, expected):
    message = fails(assignment)
    assert expected in message
    assert assignment.split("=")[0].split(".")[0] in message


def test_an_unknown_stage_is_named_with_those_there_are():
    with pytest.raises(UserError, match=r"no stage 'x'.*lm, joint"):
        example().stage("x")


OBJECTIVES = st.one_of(
    st.builds(JointConfig, stop_weight=st.floats(0, 5)), st.builds(TextLMConfig, prefix_tokens=st.integers(0, 9))
)
POSITIVE = st.integers(1, 10**6)
REAL = st.floats(1e-9, 1e9, allow_nan=False)
NAME = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
EXPERIMENTS = st.builds(
    Experiment,
    name=NAME,
    data=st.builds(
        DataConfig,
        root=NAME,
        tasks=st.lists(st.builds(TaskConfig, name=NAME, source=NAME, size=POSITIVE), max_size=3).map(tuple),
        mixtures=st.lists(
            st.builds(MixtureConfig, name=NAME, rates=st.lists(st.tuples(NAME, REAL), max_size=3).map(tuple)),
            max_size=2,
        ).map(tuple),
        prompt_seconds=REAL,
    ),
    stages=st.lists(
        st.builds(
            StageConfig,
            name=NAME,
            streams=st.lists(st.builds(StreamConfig, objective=OBJECTIVES, mixture=NAME, weight=REAL), max_size=3).map(
                tuple
            ),
            optimizer=st.builds(MuonConfig, learning_rate=REAL, lr_multipliers=st.just((("encoder", 0.1),))),
            optimizers=st.just((("lm", AdamConfig(1.0)), ("lm/layers", FrozenConfig()))),
            start_from=st.lists(st.tuples(NAME, NAME), max_size=2).map(tuple),
        ),
        max_size=3,
    ).map(tuple),
    features=st.builds(FeatureConfig, num_mels=POSITIVE, per_band=st.booleans()),
    model=st.builds(ModelConfig, encoder=st.builds(ConformerConfig, dim=POSITIVE, dropout=REAL)),
    mesh=st.lists(st.tuples(NAME, POSITIVE), max_size=2).map(tuple),
    seed=POSITIVE,
)


@settings(max_examples=25, deadline=None)
@given(EXPERIMENTS)
def test_json_round_trip_gives_the_same_experiment(experiment):
    again = build(Experiment, json.loads(to_json(experiment)), "Experiment")
    assert again == experiment
    assert to_json(again) == to_json(experiment)


def test_json_accepts_a_whole_number_for_a_float_and_fills_defaults():
    made = from_json('{"sample_rate": 8000, "low_hz": 30, "high_hz": 4000}', FeatureConfig)
    assert made == FeatureConfig(sample_rate=8000, low_hz=30.0, high_hz=4000.0)
    assert isinstance(made.low_hz, float)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda j: j["model"]["lm"].update(num_head=2), "did you mean 'num_heads'"),
        (lambda j: j["stages"][1].update(stepz=2), "did you mean 'steps'"),
        (lambda j: j.update(seed="1"), "1 is not a whole number"),
        (lambda j: j.update(features=3), "must be an object with the fields of FeatureConfig"),
        (lambda j: j.update(stages={}), "must be a list"),
        (lambda j: j["stages"][0].pop("streams"), "streams"),
        (lambda j: j["model"].update(scan_layers=1), "1 is not true or false"),
    ],
)
def test_json_of_another_program_is_refused_with_the_key(change, expected):
    loose = json.loads(to_json(example()))
    change(loose)
    with pytest.raises(UserError, match="Experiment") as caught:
        from_json(json.dumps(loose))
    assert expected in str(caught.value)


def test_derived_numbers_are_the_papers():
    features = FeatureConfig()
    assert (features.window, features.hop, features.fft_size) == (800, 200, 1024)
    assert features.num_frames(60_000) == 300  # a published "3 s" prompt


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "does not exist"),
        ("x = 1", "no function experiment"),
        ("def experiment(): return 3", "returned int, not Experiment"),
        ("def experiment(:", "cannot be run"),
        ("import nonsense_that_is_not_there", "cannot be run"),
    ],
)
def test_a_broken_config_file_is_one_sentence_naming_it(tmp_path, text, expected):
    path = tmp_path / "broken.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=expected) as caught:
        load_experiment(path)
    assert "broken.py" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_must_be_python(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("name: x")
    with pytest.raises(UserError, match=r"must end in \.py"):
        load_experiment(path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_refers_to_what_it_defines(path, tmp_path):
    prepared = Prepared(
        hours=1,
        recordings=9,
        held_out=1,
        speakers=1,
        shortest=3,
        longest=9,
        thirds=(4, 6),
        max_tokens=80,
        characters="",
    )
    (tmp_path / "prepared.json").write_text(prepared.to_json())
    root = [f"data.root={tmp_path}"] if path.stem == "own" else []
    experiment = load_experiment(path, ["seed=3", *root])
    assert experiment.seed == 3
    assert from_json(to_json(experiment)) == experiment
    tasks = {task.name for task in experiment.data.tasks}
    mixtures = {mixture.name: mixture for mixture in experiment.data.mixtures}
    assert len(tasks) == len(experiment.data.tasks)
    assert len({stage.name for stage in experiment.stages}) == len(experiment.stages) > 0
    for mixture in mixtures.values():
        assert {name for name, _ in mixture.rates} <= tasks
    earlier: set[str] = set()
    for stage in experiment.stages:
        for stream in stage.streams:
            assert stream.mixture in tasks | set(mixtures), f"stage {stage.name}: no data called {stream.mixture}"
        for part, source in stage.start_from:
            assert source in earlier or "/" in source, (
                f"stage {stage.name}: {part} starts from {source}, which is no stage"
            )
        earlier.add(stage.name)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_says_how_to_run_it(path):
    assert f"configs/{path.name}" in (load_docstring(path) or ""), (
        "the docstring gives the command, the time, the result"
    )


def load_docstring(path: Path) -> str | None:
    """The docstring of a file, unexecuted."""
    import ast

    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


class ShapeConfig(Choice):
    """A family that this package does not know."""


@dataclasses.dataclass(frozen=True)
class CircleConfig(ShapeConfig, kind="circle"):
    radius: float = 1.0


@dataclasses.dataclass(frozen=True)
class SquareConfig(ShapeConfig, kind="square"):
    side: float = 2.0
    inner: ShapeConfig = CircleConfig()


@dataclasses.dataclass(frozen=True)
class Drawing:
    shape: ShapeConfig = CircleConfig()
    layers: tuple[tuple[str, ShapeConfig], ...] = ()


def test_a_kind_chooses_the_class_and_takes_its_defaults():
    drawing = override(Drawing(CircleConfig(3.0)), ["shape.kind=square", "shape.side=5", "shape.inner.radius=4"])
    assert drawing.shape == SquareConfig(5.0, CircleConfig(4.0))
    assert override(Drawing(CircleConfig(3.0)), ["shape.kind=circle"]).shape == CircleConfig(1.0)
    assert override(Drawing(), ['shape={"kind": "square", "side": 7}']).shape == SquareConfig(7.0)
    layered = override(Drawing(layers=(("top", CircleConfig()),)), ["layers.top.radius=2"])
    assert layered.layers == (("top", CircleConfig(2.0)),)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("shape.kind=sqare", "did you mean 'square'?"),
        ("shape.kind=9", "known: circle, square"),
        ("shape.side=1", "there is no 'side'; known: radius"),
        ('shape={"radius": 1}', 'needs a "kind", one of: circle, square'),
        ('shape={"kind": "square", "sides": 1}', "did you mean 'side'?"),
    ],
)
def test_a_wrong_kind_is_one_sentence(assignment, expected):
    with pytest.raises(UserError) as caught:
        override(Drawing(), [assignment])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [CircleConfig(2.0), SquareConfig(3.0, SquareConfig())])
def test_json_keeps_the_kind(shape):
    drawing = Drawing(shape, (("a", shape),))
    assert from_json(to_json(drawing), Drawing) == drawing
    assert json.loads(to_json(drawing))["shape"]["kind"] == shape.kind


def test_a_kind_names_one_class():
    with pytest.raises(TypeError, match="'circle' is taken by CircleConfig"):

        class OtherConfig(ShapeConfig, kind="circle"):
            pass
