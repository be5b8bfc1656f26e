"""A pod on this machine: processes that talk over localhost, each with simulated devices."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_run import bucketed, experiment

from spectron.checkpoints.steps import FOLDER, steps_in
from spectron.parallel import multihost, supervisor
from spectron.training.metrics import RATES
from spectron.types import UserError

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "tiny_run.py"
# The real model's joint stage, by itself. Without dropout: what is compared is sums over rows in another order.
JOINT = (
    *("--real", "--stages", "joint", "--set", "stages.joint.start_from=[]", "stages.joint.steps=20"),
    *(
        "stages.joint.streams.spectron.objective.alignment_weight=1",
        "stages.joint.streams.spectron.objective.agreement_weight=1",
        "model.logits_chunk=2",
        "stages.joint.save_every=5",
    ),
)


def free_port():
    with contextlib.closing(socket.socket()) as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


class Pod:
    """Processes of one run, each with a log of its own."""

    def __init__(self, workdir, processes, devices, *arguments, script=SCRIPT, apart=False):
        """apart: each process has a work folder of its own below workdir."""
        workdir.mkdir(exist_ok=True)
        port, self.logs, self.processes = free_port(), [], []
        for i in range(processes):
            environment = os.environ | {
                "PYTHONPATH": str(SCRIPT.parents[1]),
                "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
                "NPROC": str(4 * devices),
            }
            if processes > 1:
                names = zip(supervisor.EXPLICIT, (f"localhost:{port}", str(processes), str(i)), strict=True)
                environment |= dict(names)
            self.logs.append(workdir / f"log-{processes}-{i}")
            with self.logs[-1].open("a") as log:
                command = [
                    sys.executable,
                    str(script),
                    str(workdir / f"host{i}" if apart else workdir),
                    *map(str, arguments),
                ]
                self.processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

    def wait(self, limit=900):
        deadline = time.monotonic() + limit
        return [process.wait(max(deadline - time.monotonic(), 0.1)) for process in self.processes]

    def told(self):
        return "\n".join(f"--- {log.name}\n{log.read_text()}" for log in self.logs)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()


def lines(workdir, stage="joint"):
    rows = [json.loads(line) for line in (workdir / stage / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in RATES} for row in rows]


def run(workdir, processes, devices, *arguments):
    with Pod(workdir, processes, devices, *arguments) as pod:
        assert pod.wait() == [0] * processes, pod.told()
    return lines(workdir)


def assert_same(found, wanted):
    assert [row["step"] for row in found] == [row["step"] for row in wanted]
    for here, there in zip(found, wanted, strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-5), here["step"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Twenty steps of one process with one device."""
    return run(tmp_path_factory.mktemp("alone"), 1, 1, *JOINT)


@pytest.mark.parametrize(("processes", "devices"), [(2, 4), (4, 2), (1, 8)])
def test_processes_and_devices_change_nothing(alone, tmp_path, processes, devices):
    assert_same(run(tmp_path, processes, devices, *JOINT, "--mesh", "data=2,fsdp=4"), alone)


@pytest.mark.parametrize(
    "mesh", ["data=8", "fsdp=8", "fsdp=4,tensor=2", "replica=2,fsdp=2,tensor=2"], ids=lambda mesh: mesh
)
def test_layouts_change_nothing(alone, tmp_path, mesh):
    assert_same(run(tmp_path, 1, 8, *JOINT, "--mesh", mesh), alone)


def test_accumulated_gradients_change_nothing(alone, tmp_path):
    """Without dropout, whose masks are drawn by micro-batch."""
    still = (*JOINT, "model.lm.dropout=0", "model.encoder.dropout=0", "model.frames.prenet_dropout=0")
    still = (*still, "model.encoder.specaugment.num_freq_blocks=0", "model.encoder.specaugment.num_time_blocks=0")
    whole = run(tmp_path / "whole", 1, 1, *still)
    assert whole != alone
    assert_same(run(tmp_path / "parts", 1, 2, *still, "stages.joint.accumulate=4"), whole)


def test_processes_share_batches_of_several_shapes(tmp_path):
    """Each reads its own rows of a bucket's batch: the losses of one process that reads all of them."""
    bucketed(experiment(), tmp_path / "data")  # before two processes would write it at once
    for name, processes, mesh in (("alone", 1, "data=1"), ("two", 2, "data=2")):
        with Pod(
            tmp_path / name, processes, 1, "--stages", "ctc", "--buckets", tmp_path / "data", "--mesh", mesh
        ) as pod:
            assert pod.wait() == [0] * processes, pod.told()
    assert_same(lines(tmp_path / "two", "ctc"), lines(tmp_path / "alone", "ctc"))


def test_a_lost_process_ends_the_others_and_half_of_them_go_on(alone, tmp_path):
    with Pod(tmp_path, 4, 2, *JOINT, "--pause", 0.5, "--mesh", "data=8") as pod:
        while not steps_in(tmp_path / "joint" / FOLDER):
            assert all(process.poll() is None for process in pod.processes), pod.told()
            time.sleep(0.05)
        time.sleep(random.SystemRandom().uniform(0, 2))
        lost = random.SystemRandom().randrange(4)
        pod.processes[lost].send_signal(signal.SIGKILL)
        codes = pod.wait(60)
        assert codes == [-signal.SIGKILL if i == lost else 4 for i in range(4)], pod.told()
        for i in {0, 1, 2, 3} - {lost}:
            assert f"spectron: Lost process {lost}" in pod.logs[i].read_text()
    assert steps_in(tmp_path / "joint" / FOLDER)[-1] < 20
    assert_same(run(tmp_path, 2, 2, *JOINT, "--mesh", "data=4"), alone)


def test_a_work_folder_that_is_not_shared_is_one_sentence(tmp_path):
    with Pod(tmp_path, 2, 1, "--stages", "text", apart=True) as pod:
        assert pod.wait(120) == [2, 2], pod.told()
    for log in pod.logs:
        found = [line for line in log.read_text().splitlines() if line.startswith("spectron: ")]
        assert len(found) == 1 and "is not one folder for all hosts: process 1 of 2 did not see" in found[0]
    assert not [path for host in ("host0", "host1") for path in (tmp_path / host).glob("*")]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_the_coordinator_lost(tmp_path, number, code):
    """JAX aborts the others in that moment. What ends the process that was started ends its child too."""
    with Pod(tmp_path, 2, 1, "--stages", "text", "--pause", 0.5, "--set", "stages.text.steps=1000") as pod:
        while not steps_in(tmp_path / "text" / FOLDER):
            assert all(process.poll() is None for process in pod.processes), pod.told()
            time.sleep(0.05)
        pod.processes[0].send_signal(number)
        found = pod.wait(60)
    assert found == [code, 0 if code == 0 else supervisor.LOST], pod.told()
    if code:
        assert "spectron: Lost process 0" in pod.logs[1].read_text()


def test_a_preemption_notice_to_one_process_saves_on_all(alone, tmp_path):
    with Pod(tmp_path, 2, 2, *JOINT, "--pause", 0.5, "--mesh", "fsdp=4") as pod:
        while not steps_in(tmp_path / "joint" / FOLDER):
            assert all(process.poll() is None for process in pod.processes), pod.told()
            time.sleep(0.05)
        pod.processes[1].send_signal(signal.SIGTERM)
        assert pod.wait(120) == [0, 0], pod.told()
        assert "goes on from here" in pod.told()
    reached = steps_in(tmp_path / "joint" / FOLDER)[-1]
    assert reached < 20 and reached == lines(tmp_path)[-1]["step"]
    assert_same(run(tmp_path, 2, 2, *JOINT, "--mesh", "fsdp=4"), alone)


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        ({}, ""),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3"}, "slurm"),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, ""),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, ""),  # a batch script, before any srun
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "tpu"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, ""),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "a"}, "tpu"),
        (dict.fromkeys(supervisor.EXPLICIT, "1"), "explicit"),
    ],
)
def test_what_the_environment_says(environment, kind):
    assert supervisor.job_kind(environment) == kind


def test_a_number_that_is_none_is_refused():
    environment = dict(zip(supervisor.EXPLICIT, ("localhost:1", "2", "2"), strict=True))
    with pytest.raises(UserError, match="JAX_PROCESS_ID='2' do not number a process"):
        multihost.connect(environment=environment)


def test_a_slow_compiler_is_waited_for(tmp_path):
    """Without a barrier, the first collective gives up on a peer that comes more than half a minute later."""
    script = tmp_path / "late.py"
    script.write_text(
        "import time, jax, numpy as np\n"
        "from spectron.parallel import multihost, sharding\n"
        "multihost.connect()\n"
        "mesh = sharding.make_mesh(())\n"
        "rows = sharding.put_batch(np.ones((1, 2), np.float32), mesh)\n"
        "total = jax.jit(lambda x: x.sum(), out_shardings=sharding.replicated(mesh)).lower(rows).compile()\n"
        "time.sleep(40 * jax.process_index())\n"
        "multihost.barrier('compiled')\n"
        "assert float(total(rows)) == 4.0\n"
    )
    with Pod(tmp_path, 2, 1, script=script) as pod:
        assert pod.wait() == [0, 0], pod.told()


def test_padding_is_that_of_all_processes(tmp_path):
    """Each process knows the lengths of its own rows; process 0, which writes the metrics, has other ones."""

    def padding(workdir, processes):
        with Pod(workdir, processes, 1, "--stages", "text") as pod:
            assert pod.wait() == [0] * processes, pod.told()
        lines = [json.loads(line) for line in (workdir / "text" / "metrics.jsonl").read_text().splitlines()]
        return [line["padding"] for line in lines[1:]]  # the first line has no rates

    alone = padding(tmp_path / "alone", 1)
    assert len(set(alone)) > 1
    assert padding(tmp_path / "two", 2) == pytest.approx(alone, abs=1e-4)


def test_a_process_puts_only_its_own_shards_on_its_devices(tmp_path):
    """A whole array given to jax.device_put costs every process five times its size."""
    script = tmp_path / "place.py"
    script.write_text(
        "import resource, jax, ml_dtypes, numpy as np\n"
        "from spectron.checkpoints.checkpoint import place\n"
        "from spectron.parallel import multihost, sharding\n"
        "multihost.connect()\n"
        "mesh = sharding.make_mesh((('fsdp', 4),))\n"
        "whole = np.arange(4096 * 4096, dtype=np.float32).reshape(4096, 4096)\n"
        "split = jax.NamedSharding(mesh, jax.P(None, 'fsdp'))\n"
        "def abstract(x, dtype, how): return jax.ShapeDtypeStruct(x.shape, dtype, sharding=how)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak()\n"
        "placed = jax.block_until_ready(place({'kernel': whole}, {'kernel': abstract(whole, np.float32, split)}))\n"
        "print((peak() - before) / whole.nbytes, 'times the array')\n"
        "assert peak() - before < whole.nbytes, 'more than half of it, on two of four devices'\n"
        "for shard in placed['kernel'].addressable_shards:\n"
        "    np.testing.assert_array_equal(shard.data, whole[shard.index])\n"
        "small = {'kernel': whole[:8, :8], 'bias': whole[0, :3]}\n"
        "alike = abstract(small['bias'], np.float32, sharding.replicated(mesh))\n"
        "placed = place(small, {'kernel': abstract(small['kernel'], ml_dtypes.bfloat16, split), 'bias': alike})\n"
        "assert placed['kernel'].dtype == ml_dtypes.bfloat16 and placed['kernel'].shape == (8, 8)\n"
        "np.testing.assert_array_equal(placed['bias'], small['bias'])\n"
    )
    with Pod(tmp_path, 2, 2, script=script) as pod:
        assert pod.wait() == [0, 0], pod.told()
