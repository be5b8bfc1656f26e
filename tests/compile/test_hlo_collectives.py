"""Reading collectives out of programs: of handwritten lines, and of real ones on eight simulated devices."""

import json

import numpy as np
import pytest

from spectron.compile.hlo_collectives import collectives

AXES = (("replica", 1), ("data", 2), ("fsdp", 2), ("tensor", 2))

TEXT = """HloModule step

%body.1 (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %all-reduce.1 = f32[8,16]{1,0} all-reduce(f32[8,16]{1,0} %x), channel_id=1, replica_groups=[4,2]<=[8], to_apply=%add
}

%condition.1 (p: (s32[], f32[8,16])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(5)
  ROOT %compare.1 = pred[] compare(%i, %constant.1), direction=LT
}

%piece.1 (p: bf16[4,16]) -> bf16[4,16] {
  %all-gather.9 = bf16[4,16]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=2, replica_groups={{0,4},{1,5},{2,6},{3,7}}
}

%looped.1 (p: bf16[4,16]) -> bf16[4,16] {
  %fusion.1 = bf16[4,16] fusion(%p), kind=kCustom, calls=%piece.1
}

ENTRY %main.1 (p: f32[8,16]) -> f32[8,16] {
  %while.1 = (s32[], f32[8,16]) while(%t), condition=%condition.1, body=%body.1
  %while.2 = (s32[], bf16[4,16]) while(%t), condition=%c, body=%looped.1, backend_config={"known_trip_count":{"n":"3"}}
  %all-gather.8 = bf16[4,16] all-gather(%q), channel_id=2, replica_groups={{0,4},{1,5},{2,6},{3,7}}
  %permute.1 = (f32[2,2], f32[2,2], u32[]) collective-permute-start(%a), channel_id=3, source_target_pairs={PAIRS}
  %exchange = f32[8,4] all-to-all(%b), channel_id=5, replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}
  %scatter.1 = f32[2,4]{1,0} reduce-scatter(%b), channel_id=4, replica_groups=mesh['a'=4,'b'=2] {'a'}, dimensions={0}
}
""".replace("PAIRS", "{0,2},{2,0},{4,6},{6,4}")


def test_kinds_bytes_axes_and_repetitions():
    found = {each.kind: each for each in collectives(TEXT, AXES)}
    assert set(found) == {"all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"}
    reduce = found["all-reduce"]
    assert (reduce.times, reduce.size, reduce.group, reduce.axes) == (5, 8 * 16 * 4, 2, ("tensor",))
    assert reduce.sent == 5 * 2 * 512 / 2  # there and back, half of it each
    gather = found["all-gather"]  # one channel in two places: a collective in pieces, counted once
    assert (gather.times, gather.dtype, gather.shape, gather.axes) == (1, "bf16", (4, 16), ("data",))
    assert gather.sent == 128 / 2
    permute = found["collective-permute"]
    assert (permute.size, permute.axes, permute.sent) == (16, ("fsdp",), 16)
    exchange = found["all-to-all"]  # devices 0, 4, 1, 5, … in rows of two: 0 to 3 together, and 4 to 7
    assert (exchange.group, exchange.axes) == (4, ("fsdp", "tensor"))
    scatter = found["reduce-scatter"]
    assert (scatter.size, scatter.group, scatter.axes) == (2 * 4 * 4 * 4, 4, ("data", "fsdp"))


def test_a_notation_that_is_not_known_is_no_guess():
    with pytest.raises(ValueError, match="not known here"):
        collectives(TEXT.replace("replica_groups=[4,2]<=[8]", "replica_groups=new{0}"), AXES)


ACROSS = """HloModule step

ENTRY %main.1 (p: f32[8,16]) -> f32[8,16] {
  %kernel = f32[8,16] custom-call(%p), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata": "null"
}}, backend_config={"custom_call_config":{"body":"AAAA"}}
  %send.1 = (bf16[45,8,128]{2,1,0:T(8,128)(2,1)}, u32[], token[]) send(%kernel, %after), channel_id=2, \
is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",\
_xla_host_transfer_rendezvous="all-reduce.622_0",_xla_megascale_reduce_operation="SUM",\
_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv.1 = (bf16[45,8,128], u32[], token[]) recv(%after), channel_id=1, is_host_transfer=true, \
frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",\
_xla_host_transfer_rendezvous="all-reduce.622_0",_xla_megascale_transfer_type="ALL_REDUCE"}
}
""".replace("\\\n", "")


def test_what_crosses_slices_behind_a_kernel_of_several_lines():
    (one,) = collectives(ACROSS, (("replica", 2), ("fsdp", 4)))
    assert (one.kind, one.axes, one.group, one.size) == ("all-reduce", ("replica",), 2, 45 * 8 * 128 * 2)
    assert one.sent == one.size, "half of it there, half of it back"
    with pytest.raises(ValueError, match="not known here"):
        collectives(ACROSS.replace('"ALL_REDUCE"', '"NEW"'), (("replica", 2), ("fsdp", 4)))


PROGRAM = """
import dataclasses, json, sys
sys.path.insert(0, "tests")
import jax, numpy as np
from spectron.compile import aot as ahead
from spectron.parallel import sharding
from spectron.compile.hlo_collectives import collectives
from tiny_run import experiment

alignment = "stages.joint.streams.spectron.objective.alignment_weight=1"
config = experiment("model.logits_chunk=2", "model.lm.tie_embeddings=true", alignment)
words = tuple(f"w{i}" for i in range(2044))
vocabulary = dataclasses.replace(config.data.vocabulary, words=words)
config = dataclasses.replace(config, data=dataclasses.replace(config.data, vocabulary=vocabulary))
found = {}
for sizes in ((("fsdp", 8),), (("fsdp", 4), ("tensor", 2)), (("data", 2), ("fsdp", 2), ("tensor", 2))):
    mesh = sharding.make_mesh(sizes)
    lowered, state, _ = ahead.lower(config, config.stage("joint"), mesh)
    text = ahead.compile_step(lowered).as_text()
    key = ",".join(f"{name}={size}" for name, size in sizes)
    found[key] = [[c.kind, list(c.shape), list(c.axes)] for c in collectives(text, tuple(mesh.shape.items()))]
    found[key + " table"] = list(state.params["lm"]["embedding"].sharding.shard_shape((2048, 16)))
print("RESULT" + json.dumps(found))
"""


@pytest.mark.slow
def test_no_table_and_no_logits_are_ever_gathered(run_python):
    """A vocabulary of 2,048 (an axis that nothing else has): the pod program moves rows to it, never it to rows."""
    result = json.loads(run_python(PROGRAM, devices=8).stdout.partition("RESULT")[2])
    assert len(result) == 6
    for mesh, found in result.items():
        if mesh.endswith("table"):
            assert found == [2048 // 8 if "data" not in mesh else 2048 // 4, 16]
            continue
        assert found, "a program without collectives was not split at all"
        for kind, shape, axes in found:
            assert axes, (mesh, kind, shape)
            if kind in ("all-gather", "all-to-all", "collective-permute"):
                assert np.max(shape, initial=0) < 2048, (mesh, kind, shape, axes)
