"""Kernels, rematerialisation and logits chunks that are compared one at a time, with a stand-in for the compiler."""

import time

from tiny_run import experiment

from spectron.compile.aot import OutOfMemory
from spectron.compile.report import Report
from spectron.compile.variants import compare, comparison_table, fastest
from spectron.utils.console import Waiting

GIB = 2.0**30
MEMORY = 16 * GIB


def compiler(activations, tells=True):
    """A step of 4 GiB of state; activations: (remat, attention, chunk) → GiB. Full rematerialisation costs a third."""

    def attempt(changed):
        model = changed.model
        peak = (4 + activations(model.remat, model.lm.attention, model.logits_chunk)) * GIB
        if peak > MEMORY:
            raise OutOfMemory(peak if tells else 0.0, "")
        again = 1e15 if model.remat == "full" else 0.0
        return Report(
            config="c", stage="s", topology="t", slices=1, chips=16, mesh={}, batch_size=16, speech_seconds=1.0,
            parameters={}, bytes={"peak": peak, "memory": MEMORY}, flops={"step": 3e15, "recomputed": again},
            collectives=[], seconds={"compute": (3e15 + again) / 1e16, "memory": 0.01},
        )  # fmt: skip

    return attempt


def sizes(remat, attention, chunk):
    return {"none": 14, "dots": 6, "full": 2}[remat] - (attention == "splash") + (chunk == 0)


def test_the_fastest_that_fits_is_found_setting_by_setting():
    found = compare(experiment("model.remat=full", "model.logits_chunk=16"), compiler(sizes))
    tried = [each.values for each in found]
    assert tried == [
        ("full", "plain", 16), ("dots", "plain", 16), ("none", "plain", 16), ("dots", "splash", 16),
        ("dots", "splash", 128), ("dots", "splash", 0),
    ]  # fmt: skip
    assert fastest(found).values == ("dots", "splash", 16)  # as fast as plain attention, with less memory
    lines = comparison_table(found).splitlines()
    assert lines[0].startswith("| remat | attention | logits_chunk | GiB per chip |")
    assert lines[2] == "| full | plain | 16 | 6.00 | 4e+15 | 400.0 ms, compute | 0 s |  |"
    assert lines[4] == "| none | plain | 16 | 18.00 | – | – | 0 s | does not fit |"
    assert lines[5] == "| dots | splash | 16 | 9.00 | 3e+15 | 300.0 ms, compute | 0 s | best |"


def test_where_nothing_fits_nothing_is_best():
    found = compare(experiment("model.remat=full"), compiler(lambda *_: 20, tells=False))
    assert fastest(found) is None and len(found) == 6
    assert comparison_table(found).count("| ? | – | – | 0 s | does not fit |") == 6


def test_a_long_call_says_how_long_it_has_taken(capsys):
    with Waiting("compiling", every=0.05):
        time.sleep(0.3)
    told = capsys.readouterr().err.splitlines()
    assert len(told) >= 2 and told[0] == "  compiling, 0 s so far"
    with Waiting("compiling", every=60):
        pass
    assert not capsys.readouterr().err
