"""Which of a job's inputs a process of `spectron generate` takes."""

import pytest

from spectron import cli
from spectron.types import UserError


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        ({}, (0, 1)),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}, (2, 4)),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "1"}, (1, 3)),
    ],
)
def test_the_environment_says_which_part(environment, part):
    assert cli.generate._part_of(environment) == part


def test_a_process_without_a_number_is_refused():
    for number in ({}, {"JAX_PROCESS_ID": "7"}):
        with pytest.raises(UserError, match="JAX_PROCESS_ID and JAX_NUM_PROCESSES do not number"):
            cli.generate._part_of({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", **number})


@pytest.mark.parametrize("text", ["1", "2/2", "+1/2", "a/b", "/"])
def test_a_part_that_is_none_is_refused(text, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["generate", "--checkpoint", "c", "--out", "o", "x.wav", "--part", text])
    assert stopped.value.code == 2 and "must be written I/N" in capsys.readouterr().err
