"""Golden files: the resolved config and the parameter table of the paper's models and of the digits recipe, and a tiny
checkpoint and export.

A change of either is a change of every checkpoint's vocabulary; it must be meant. Write them anew with

    SPECTRON_WRITE_GOLDEN=1 python -m pytest tests/test_golden.py
"""

import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_exports

from spectron import Spectron
from spectron.checkpoints import export_format, manager
from spectron.checkpoints.checkpoint import Checkpoint
from spectron.checkpoints.trees import fingerprint
from spectron.config import Experiment, load_experiment, to_json
from spectron.data.fields import to_batch
from spectron.data.vocabulary import ByteVocabulary
from spectron.export.folder import export
from spectron.objectives import make_objectives
from spectron.training.step import init_params
from spectron.types import Example, Statistics

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(__file__).with_name("golden")
CONFIGS = {"digits": "digits", "350m": "spectron_350m", "1b": "spectron_1b", "7b": "spectron_7b"}


def parameter_table(experiment: Experiment) -> str:
    """One line for each parameter of all stages: path, shape, dtype, logical axes."""
    bands = experiment.features.num_mels
    statistics = Statistics(jax.numpy.zeros(bands), jax.numpy.ones(bands))
    lines = {}
    for stage in experiment.stages:
        objectives = make_objectives(stage.streams, experiment, statistics)
        vocabulary = ByteVocabulary()  # a recipe's own may be a file that is not here; only its size matters
        empty = Example(np.zeros(0, np.int16), 0, "", "empty")
        batches = [to_batch([empty], experiment.data, experiment.features, vocabulary) for _ in objectives]
        boxed = jax.eval_shape(lambda o=objectives, b=batches: init_params(o, b, 0))
        leaves = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=lambda x: hasattr(x, "names"))
        for path, leaf in leaves:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            axes = " ".join(str(axis) for axis in leaf.names)
            lines[name] = f"{name}  {'x'.join(map(str, leaf.value.shape))}  {leaf.value.dtype}  {axes}"
    return "".join(f"{lines[name]}\n" for name in sorted(lines))


def compare(path: Path, text: str) -> None:
    if os.environ.get("SPECTRON_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, f"{path.name} has changed; see the docstring of this file"


@pytest.mark.parametrize("name", CONFIGS)
def test_resolved_config_is_the_golden_one(name):
    experiment = load_experiment(ROOT / "configs" / f"{CONFIGS[name]}.py")
    compare(GOLDEN / f"{name}.config.json", to_json(experiment) + "\n")


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_the_golden_ones(name):
    experiment = load_experiment(ROOT / "configs" / f"{CONFIGS[name]}.py")
    compare(GOLDEN / f"{name}.parameters.txt", parameter_table(experiment))


# A tiny checkpoint and its export as this version wrote them: every later version must read them and get these values.
# A new format gets files under its own version, and refuses the old ones in a sentence.


def written(name: str) -> Path:
    """A checkpoint or export of the golden files, written first where that is asked for."""
    checkpoint, exported = GOLDEN / f"checkpoint_{manager.VERSION}", GOLDEN / f"export_{export_format.VERSION}"
    folder = checkpoint if name == "checkpoint" else exported
    if os.environ.get("SPECTRON_WRITE_GOLDEN"):
        shutil.rmtree(folder, ignore_errors=True)
        if name == "checkpoint":
            tiny_exports.write_checkpoint(folder)
            for path in folder.rglob("commit_success.txt"):  # names this machine's folder; only its presence counts
                path.write_text("committed\n")
        else:
            export(checkpoint, folder)
    return folder


@pytest.mark.parametrize("name", ["checkpoint", "export"])
def test_a_file_of_this_version_is_read(name):
    opened = Checkpoint.open(written(name))
    model = Spectron.from_checkpoint(opened)
    prompt = np.random.default_rng(0).integers(-4000, 4000, 8000).astype(np.int16)
    answer = model.generate(prompt)
    facts = {
        "stage": opened.stage,
        "step": opened.step,
        "average": opened.has_average,
        "parameters": fingerprint(model.params),
        "transcript": answer.transcript,
        "frames": len(answer.frames),
    }
    compare(GOLDEN / f"{name}.facts.json", json.dumps(facts, indent=1) + "\n")
