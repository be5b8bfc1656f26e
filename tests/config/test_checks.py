"""What each setting may be: every field has a rule, every mistake is one sentence with a way out, none a traceback."""

import dataclasses
import inspect
import json
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron.audio import vad
from spectron.config import (
    AdamConfig,
    CTCConfig,
    DataConfig,
    Experiment,
    FeatureConfig,
    JointConfig,
    LMConfig,
    MixtureConfig,
    MuonConfig,
    StageConfig,
    StreamConfig,
    TaskConfig,
    TextLMConfig,
    WordsConfig,
    as_dict,
    check_settings,
    from_json,
    load_experiment,
    noisy_student,
    override,
    schema,
    to_json,
)
from spectron.config.checks import AXES, RULES, rules_of
from spectron.corpora import cutting, librilight, pipelines
from spectron.models.layers import ACTIVATIONS
from spectron.parallel import sharding
from spectron.types import UserError

# Settings of every part of the project; the corpora's rules stand beside their classes.
SETTINGS = [
    cls
    for module in (schema, noisy_student, cutting, vad, librilight, pipelines)
    for _, cls in inspect.getmembers(module, inspect.isclass)
    if dataclasses.is_dataclass(cls)
    and cls.__module__ == module.__name__
    and cls.__name__.endswith(("Config", "Experiment"))
]


def example(**changes) -> Experiment:
    """Two stages, a mixture, two optimizers."""
    data = DataConfig(
        tasks=(TaskConfig("speech", "counting"), TaskConfig("texts", "counting_text")),
        mixtures=(MixtureConfig("mix", (("speech", 1.0),)),),
        vocabulary=WordsConfig(("one", "two")),
        buckets=(4.0, 8.0),
        bucket_tokens=(50, 100),
    )
    text = StreamConfig(TextLMConfig(), "texts", batch_size=8)
    joint = StageConfig(
        "joint",
        (StreamConfig(JointConfig(), "mix"), text),
        optimizer=MuonConfig(lr_multipliers=(("encoder", 0.1),)),
        start_from=(("lm", "lm"),),
        optimizers=(("lm", AdamConfig()),),
        evaluate_on="speech",
    )
    return dataclasses.replace(Experiment("example", data, (StageConfig("lm", (text,)), joint)), **changes)


def refused(*assignments: str) -> str:
    """The sentence for overrides that are refused."""
    with pytest.raises(UserError) as caught:
        override(example(), assignments)
    return one_sentence(caught.value)


def one_sentence(error: BaseException) -> str:
    message = str(error)
    assert "\n" not in message and len(message) < 600
    assert message.endswith((".", "?"))
    return message


@pytest.mark.parametrize("cls", SETTINGS, ids=lambda cls: cls.__name__)
def test_every_setting_has_a_rule(cls):
    """A new field needs a row in checks.py: FREE if any value of its type is valid."""
    assert set(rules_of(cls)) == {field.name for field in dataclasses.fields(cls)}


def test_the_table_names_nothing_that_is_gone():
    assert set(RULES) <= set(SETTINGS)
    assert len(SETTINGS) > 30


@pytest.mark.parametrize("cls", SETTINGS, ids=lambda cls: cls.__name__)
def test_numbers_and_names_have_limits(cls):
    """A number without a range, or a name without a list of names where its comment lists some, is FREE by mistake."""
    for name, hint in typing.get_type_hints(cls).items():
        if hint in (int, float):
            assert hasattr(rules_of(cls)[name], "low"), f"{cls.__name__}.{name} is a number and has no range"


def test_names_are_those_that_are_implemented():
    assert set(RULES[LMConfig]["activation"].names) == set(ACTIVATIONS)
    assert AXES == sharding.AXES


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        # relations of a model
        ("model.encoder.num_heads=5", "num_heads=5 does not divide model.encoder.dim=128; .* are 4 and 8"),
        ("model.encoder.dim=97", "dim=97 is odd, .* the nearest is 98"),
        ("model.lm.num_heads=3", "num_heads=3 does not divide model.lm.dim=128; the nearest that do are 2 and 4"),
        ("model.lm.num_heads=128", "into heads of an even width, .* the nearest is 64"),
        ("model.lm.num_kv_heads=3", "num_kv_heads=3 does not divide model.lm.num_heads=4; .* are 2 and 4"),
        ("model.lm.head_dim=33", "head_dim=33 is odd, .* the nearest is 34"),
        ("model.lm.positions=learned", "needs model.lm.max_positions"),
        ("model.lm.attention=cudnn", "compute_dtype=bfloat16"),
        ("model.frames.frames_per_step=990", "more than the 980 frames .* the nearest is 980"),
        # names
        ("model.compute_dtype=bf16", "did you mean bfloat16.*float32, bfloat16, float16"),
        ("model.compute_dtype=int8", "unknown; .*float32, bfloat16, float16"),
        ("model.lm.activation=swish", "unknown; .*gelu, gelu_tanh, silu, relu"),
        ("model.lm.norm=rmsnorm", "did you mean rms"),
        ("model.lm.norm=", "unknown; use one of: rms, layer"),
        ("model.lm.positions=alibi", "unknown; use one of: rotary, learned, none"),
        ("model.lm.attention=flash", "did you mean splash"),
        ("model.remat=ful", "did you mean full"),
        ("model.frames.go=zero", "did you mean zeros"),
        ("stages.joint.optimizer.schedule=cosin", "did you mean cosine"),
        ("data.reader=tape", "use one of: seqio, direct"),
        ("data.clips=tapes", "use one of: fsdd, espeak"),
        ("features.dft=FFT", "did you mean fft"),
        ('mesh=[["dat", 1]]', "mesh=dat is unknown; did you mean data"),
        # ranges
        ("seed=99999999999999999999", "seed=99999999999999999999 must be .*at most 4294967295; .* is 4294967295"),
        ("seed=-1", "at least 0.*the nearest valid value is 0"),
        ("model.encoder.num_layers=0", "at least 1"),
        ("model.lm.dim=-128", "at least 1.*nearest valid value is 1"),
        ("model.lm.ff_dim=4294967296", "at most 2147483647"),
        ("model.encoder.dropout=1", "at least 0 and below 1; the default is 0.1"),
        ("model.lm.dropout=-0.1", "nearest valid value is 0"),
        ("model.encoder.specaugment.max_time_fraction=1.5", "nearest valid value is 1"),
        ("model.encoder.rope_base=0", "above 0; the default is 10000"),
        ("stages.joint.ema_decay=1", "at least 0 and below 1"),
        ("stages.joint.steps=0", "stages.joint.steps=0 must be at least 1"),
        ("stages.joint.keep=-1", "at least 1"),
        ("stages.joint.optimizer.learning_rate=-1e-3", "learning_rate=-0.001 must be at least 0"),
        ("stages.joint.optimizer.b2=1.0", "below 1; the default is 0.98"),
        ("stages.joint.optimizers.lm.weight_decay=-1", "stages.joint.optimizers.lm.weight_decay=-1.0"),
        ("stages.joint.streams.text_lm.batch_size=0", "stages.joint.streams.text_lm.batch_size=0 must be at least 1"),
        ("stages.joint.streams.spectron.weight=-1", "at least 0"),
        ("stages.joint.streams.spectron.objective.time_deltas=-1", "at least 0"),
        ('stages.joint.optimizer.lr_multipliers=[["lm", -1]]', "lr_multipliers.lm=-1.0 must be at least 0"),
        ('stages.joint.optimizer.lr_multipliers=[["lm", 0]]', r'optimizers=\[\["lm", {"kind": "frozen"}\]\]'),
        ('data.mixtures.mix.rates=[["speech", 0]]', "rates.speech=0.0 must be above 0"),
        ("data.max_seconds=-1", "above 0"),
        ("data.readers=100000", "at most 1024"),
        # not finite, or beyond what a number of 32 bits holds
        ("stages.joint.optimizer.learning_rate=nan", "learning_rate=nan must be at least 0; the default is"),
        ("stages.joint.clip_norm=1e400", "clip_norm=inf"),
        ("model.lm.norm_offset=-inf", "norm_offset=-inf must be"),
        ("features.log_floor=1e39", "at most"),
        ("data.buckets=[1, NaN]", "buckets.1=nan"),
        # relations of features and data
        ("features.low_hz=8000", "low_hz=8000 must be below features.high_hz=8000"),
        ("features.high_hz=9000", "above half of features.sample_rate=16000; the nearest is 8000"),
        ("features.hop_seconds=1e-9", "holds 0 samples .*the smallest is 6.25e-05"),
        ("features.sample_rate=8000", "nearest is 4000"),
        ("data.buckets=[8, 4]", "must rise"),
        ("data.buckets=[4, 20]", r"at most max_seconds \(16\)"),
        ("data.bucket_tokens=[50]", "has 1 values for 2 buckets"),
        ("data.bucket_tokens=[100, 50]", "must rise"),
        ("data.mixtures.mix.rates=[]", "is empty"),
        # names twice, or that are no names
        ("stages.joint.name=lm", "stages names 'lm' twice"),
        ("stages.joint.name=a/b", "such as a_b"),
        ("stages.joint.name=..", "cannot be the name of a folder"),
        ("data.tasks.texts.name=speech", "names 'speech' twice"),
        ('stages.joint.start_from=[["lm", "lm"], ["lm", "x"]]', "names 'lm' twice"),
        ('mesh=[["data", 2], ["data", 2]]', "names 'data' twice"),
        ('mesh=[["data", 0]]', "1 or more"),
        ('mesh=[["data", -1], ["fsdp", -1]]', "one of them may be -1"),
        ('mesh=[["data", -2]]', "at least -1"),
        ('data.vocabulary.words=["a", "a"]', "names 'a' twice"),
        ('data.vocabulary.words=["a b"]', "not one word"),
        ("stages.joint.streams=[]", "streams is empty"),
        ("data.root=a\0b", "NUL"),
    ],
)  # fmt: skip
def test_an_impossible_setting_is_one_sentence_with_the_nearest_that_is(assignment, expected):
    with pytest.raises(UserError, match=expected) as caught:
        override(example(), [assignment])
    assert one_sentence(caught.value).startswith(assignment.split(".")[0].split("=")[0])


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("seed=1e3", "1e3 is not a whole number"),
        (f"seed={'9' * 5000}", "is not a whole number"),
        ("seed=true", "is not a whole number"),
        ('mesh=[["data", true]]', "True is not a whole number"),
        ("model.scan_layers=2", "2 is not true or false"),
        ("features.low_hz=20 Hz", "'20 Hz' is not a number"),
        ('data.buckets=["4"]', "4 is not a number"),
        (f"data.buckets=[{'9' * 400}]", "buckets.0=inf"),
        ("data.buckets=4", "must be a list"),
        ("data.buckets=" + "[" * 100_000, "is not valid JSON"),
        ("data.buckets=null", "must be a list, not None"),
        ("data.mixtures=[1]", "must be an object with the fields of MixtureConfig"),
        ('data.tasks=[{"name": "a"}]', "source"),
        ("model.encoder=3", "must be an object"),
        ('model.encoder={"kind": ["conformer"]}', "there is no kind"),
        ('model.encoder={"kind": "conformer", "features": {"features": {}}}', "there is no 'features'"),
        ("stages.².steps=1", "there is no '²'"),
        ("data.mixtures.mix.rates.speech=1", "give the whole list as JSON"),
        ("data.mixtures.mix.rates.speech.x=1", "is a plain value"),
        ("data.buckets.0.x=1", "is a plain value"),
        ("stages.joint.start_from.lm.x=1", "is a plain value"),
        (".=1", "there is no ''"),
        ("=1", "there is no ''"),
    ],
)
def test_a_value_of_another_type_is_one_sentence(assignment, expected):
    assert expected in refused(assignment)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: example(seed=1.0), "seed=1.0 is not a whole number but float"),
        (lambda: example(seed=True), "seed=True is not a whole number"),
        (lambda: example(seed=10**5000), "seed=(a number of 5001 digits)"),
        (lambda: example(seed=None), "seed=None"),
        (lambda: example(mesh=[("data", 1)]), "must be a tuple, not list"),
        (lambda: example(mesh=(("data", 1, 2),)), "must be a tuple of 2 parts"),
        (lambda: example(mesh=("data",)), "must be a tuple of 2 parts"),
        (lambda: example(features={"num_mels": 80}), "must be FeatureConfig, not dict"),
        (lambda: example(features=LMConfig()), "features must be FeatureConfig, not LMConfig"),
        (lambda: example(data=None), "data=None must be DataConfig"),
        (lambda: example(stages=(3,)), "stages.0=3 must be StageConfig, not int"),
        (lambda: dataclasses.replace(example(), data=DataConfig(max_seconds="16")), "max_seconds=16 is not a number"),
        (lambda: example(stages=(StageConfig("a", (StreamConfig(AdamConfig(), "x"),)),)), "must be ObjectiveConfig"),
    ],
)
def test_a_config_file_with_a_value_of_another_type_is_one_sentence(make, expected):
    with pytest.raises(UserError) as caught:
        check_settings(make())
    assert expected in one_sentence(caught.value)


def test_what_is_valid_stays_valid():
    """Limits themselves, whole numbers for fractions, and every default."""
    for assignments in (
        [],
        ["seed=4294967295", "model.encoder.num_heads=2", "model.lm.dropout=0", "model.compute_dtype=float16"],
        ["model.lm.head_dim=3", "model.lm.positions=none"],
        ["model.lm.num_heads=128", "model.lm.num_kv_heads=1", "model.lm.positions=none"],
        ["stages.joint.optimizer.learning_rate=0", "stages.joint.clip_norm=0", 'mesh=[["data", -1], ["fsdp", 2]]'],
        ["features.sample_rate=8000", "features.high_hz=4000", "model.encoder.features.sample_rate=8000",
         "model.encoder.features.high_hz=4000"],
        ["data.bucket_tokens=[]", "data.buckets=[]", "data.readers=0"],
    ):  # fmt: skip
        override(example(), assignments)
    check_settings(example(seed=3, data=DataConfig(max_seconds=16), stages=()))
    check_settings(FeatureConfig())


def test_settings_in_a_checkpoint_are_checked():
    loose = json.loads(to_json(example()))
    loose["model"]["lm"]["num_heads"] = 5
    with pytest.raises(UserError, match=r"model.lm.num_heads=5 does not divide"):
        from_json(json.dumps(loose))


BROKEN = {
    "import nonsense_that_is_not_there": "line 1: ModuleNotFoundError: No module named",
    "x = 1\n\ny = 1 / 0": "line 3: ZeroDivisionError: division by zero",
    "def experiment(:": "line 1: SyntaxError",
    "x = 1\n  y = 2": "line 2: IndentationError",
    "def experiment():\n    return undefined": "line 2: NameError: name 'undefined' is not defined",
    "def experiment():\n    from spectron.config import LMConfig\n    return LMConfig(dmi=3)": "line 3: TypeError",
    "def experiment():\n    return experiment()": "line 2: RecursionError",
    "def experiment(size):\n    return 3": "missing 1 required positional argument: 'size'",
    "import sys\nsys.exit(3)": "line 2: SystemExit: 3",
    "raise ValueError('one\\ntwo')": "line 1: ValueError: one two",
    "raise KeyError": "line 1: KeyError",
    "import os\nos.environ['NOT_SET_ANYWHERE']": "line 2: KeyError",
    "def experiment():\n    raise OSError(2, 'No such file', 'x.txt')": "line 2: FileNotFoundError",
    "experiment = 3": "has experiment, which is not a function",
    "def experimnet(): return 3": "no function experiment()",
    "def experiment(): return None": "returned NoneType, not Experiment",
    "from spectron.config import Experiment\ndef experiment(): return Experiment": "returned type, not Experiment",
    "import helper": "helper.py, line 2: AssertionError: wrong",
    "x = '\0'": "SyntaxError",
    b"x = '\xff'": "SyntaxError",
}


@pytest.mark.parametrize("text", BROKEN)
def test_what_fails_in_a_config_file_is_one_sentence_with_file_and_line(text, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helper.py").write_text("def check():\n    assert False, 'wrong'\n\ncheck()\n")
    path = tmp_path / "broken.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        load_experiment(path)
    message = one_sentence(caught.value)
    assert "broken.py" in message and BROKEN[text] in message


RECIPE = """
from spectron.config import *

def experiment():
    mixtures = (MixtureConfig("mix", (("speech", 1.0),)),)
    data = DataConfig(tasks=(TaskConfig("speech", "counting"),), mixtures=mixtures)
    return Experiment("x", data, (StageConfig("joint", (StreamConfig(JointConfig(), "mix"),)),))
"""


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ('data.mixtures.mix.rates=[["speach", 1]]', "names task 'speach', which data.tasks lacks; tasks: speech"),
        ("stages.joint.streams.spectron.mixture=speach", "no mixture or task 'speach' in data; known: mix, speech"),
        ("stages.joint.evaluate_on=speach", "'speach' is no task"),
        ("data.max_seconds=30", "data.max_seconds=30 is more than max_prompt_seconds .*nearest is 16"),
    ],
)
def test_the_experiment_of_a_config_file_uses_its_data(assignment, expected, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(RECIPE)
    with pytest.raises(UserError, match=expected) as caught:
        load_experiment(path, [assignment])
    one_sentence(caught.value)
    load_experiment(path, ["data.max_seconds=30", "data.max_continuation_seconds=30"])
    override(example(), ["data.max_continuation_seconds=5"])  # evaluation may ask for shorter answers


@pytest.mark.parametrize("path", ["", ".", "nowhere.py", "x" * 5000 + ".py", "a\0b.py"])
def test_a_config_that_cannot_be_a_file_is_one_sentence(path):
    with pytest.raises(UserError, match=r"is not a file|does not exist"):
        load_experiment(path)


def keys_of(config: typing.Any, prefix: str = "") -> list[str]:
    """Dotted keys of all values of an experiment; elements of lists by their place."""
    if isinstance(config, list) and config and not isinstance(config[0], dict):
        return [prefix[:-1], *(f"{prefix}{i}" for i in range(len(config)))]
    if isinstance(config, (dict, list)):
        pairs = config.items() if isinstance(config, dict) else enumerate(config)
        return [key for name, child in pairs for key in keys_of(child, f"{prefix}{name}.")]
    return [prefix[:-1]]


NUMBERS = ("0", "1", "-1", "2", "3", "5", "7", "0.5", "1e400", "-1e400", "nan", "1e-320", "1e308", "9" * 20, "9" * 5000)
WORDS = ("", " ", "true", "null", "bf16", "none", "x" * 300, "\0", "\udc80", "é\n", "..", "[", "{}", "[]", '[["a"]]')
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "name", "dim"]), inner),
    max_leaves=6,
).map(json.dumps)
VALUES = st.one_of(
    st.sampled_from(NUMBERS + WORDS), st.integers().map(str), st.floats().map(str), st.text(max_size=8), JSON
)
KEYS = st.one_of(st.sampled_from(keys_of(as_dict(example()))), st.text("abcdmodelst.0=²", max_size=12))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=3))
def test_any_override_gives_a_valid_experiment_or_one_sentence(pairs):
    try:
        made = override(example(), [f"{key}={value}" for key, value in pairs])
    except UserError as error:
        one_sentence(error)
        return
    check_settings(made)
    assert from_json(to_json(made)) == made
    assert made.model.lm.head_width * 2 >= 2 and made.features.hop >= 1


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_settings_of_the_right_types_are_valid_or_one_sentence(data):
    """Drawn from the dataclasses themselves, so a new field is drawn too."""

    def draw(hint):
        if dataclasses.is_dataclass(hint):
            hints = typing.get_type_hints(hint)
            fields = [f.name for f in dataclasses.fields(hint)]
            return hint(**{name: draw(hints[name]) for name in fields})
        if typing.get_origin(hint) is tuple:
            args = typing.get_args(hint)
            if args[-1] is Ellipsis:
                return tuple(draw(args[0]) for _ in range(data.draw(st.integers(0, 2))))
            return tuple(draw(arg) for arg in args)
        simple = {int: st.integers(), float: st.floats(), str: st.text(max_size=5), bool: st.booleans()}
        return data.draw(simple.get(hint, st.none()))

    cls = data.draw(st.sampled_from([c for c in SETTINGS if c not in (Experiment, StreamConfig, CTCConfig)]))
    try:
        check_settings(draw(cls), "some.key")
    except UserError as error:
        one_sentence(error)
