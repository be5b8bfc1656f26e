import collections
import math
import re

import numpy as np
import pytest
from librilight_tree import FakeFactory, contents

from spectron.corpora.labelling import MAX_FAILURES, label, make_batches
from spectron.corpora.labels import labels_path, read_labels
from spectron.data.shards import Utterance, encode_flac, shard_path, write_shard
from spectron.types import Hypothesis, UserError

INLINE = ("--runner", "inline")


def write(folder, sizes=(23, 0, 9)):
    rng = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        lengths = rng.integers(1000, 4000, size)
        write_shard(
            shard_path(folder, number),
            [
                Utterance(f"u{number}-{i}", "s", "b", encode_flac(rng.integers(-99, 99, n), 16_000), 16_000, int(n))
                for i, n in enumerate(lengths)
            ],
        )
    return folder


@pytest.fixture
def shards(tmp_path):
    return write(tmp_path / "shards")


def run(shards, out, log, **changes):
    label(shards, out, FakeFactory(log, **changes), "fake", batch_size=4, options=INLINE)


def labelled(log):
    return collections.Counter(log.read_text().splitlines()) if log.exists() else collections.Counter()


def test_every_utterance_gets_its_label_in_order(shards, tmp_path):
    run(shards, tmp_path / "labels", tmp_path / "log")
    found = [read_labels(labels_path(tmp_path / "labels", i)) for i in range(3)]
    assert [len(x) for x in found] == [23, 0, 9]
    assert [x.id for x in found[2]] == [f"u2-{i}" for i in range(9)]
    assert all(x.labelled_by == "fake" and x.tokens == 6 and x.score <= 0 for x in found[0])
    assert max(labelled(tmp_path / "log").values()) == 1


@pytest.mark.parametrize("batches", range(1, 9))
def test_killed_after_any_batch_it_goes_on_where_it_was(shards, tmp_path, batches):
    run(shards, tmp_path / "whole", tmp_path / "whole.log")
    for _ in range(20):
        try:
            run(shards, tmp_path / "labels", tmp_path / "log", dies_after=batches)
            break
        except KeyboardInterrupt:
            continue
    assert labelled(tmp_path / "log") == labelled(tmp_path / "whole.log")
    assert contents(tmp_path / "labels") == contents(tmp_path / "whole")


def test_half_a_line_in_a_journal_is_no_label(shards, tmp_path):
    out = tmp_path / "labels"
    with pytest.raises(KeyboardInterrupt):
        run(shards, out, tmp_path / "log", dies_after=3)
    journal = out / ".shard-00000.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    journal.write_bytes(lines[0] + lines[1] + lines[2][:-9])
    run(shards, out, tmp_path / "log")
    run(shards, tmp_path / "whole", tmp_path / "whole.log")
    assert contents(out) == contents(tmp_path / "whole")
    assert sum((labelled(tmp_path / "log") - labelled(tmp_path / "whole.log")).values()) == 4, "the torn batch alone"


def test_a_finished_folder_asks_nobody(shards, tmp_path):
    run(shards, tmp_path / "labels", tmp_path / "log")
    before = contents(tmp_path / "labels")
    run(shards, tmp_path / "labels", tmp_path / "log", dies_after=0)
    assert contents(tmp_path / "labels") == before


def test_another_recogniser_or_other_shards_are_refused(shards, tmp_path):
    run(shards, tmp_path / "labels", tmp_path / "log")
    with pytest.raises(UserError, match=r"recogniser 'fake', this run has 'other'"):
        label(shards, tmp_path / "labels", FakeFactory(tmp_path / "log"), "other", batch_size=4, options=INLINE)
    other = write(tmp_path / "other", (23, 0, 10))
    with pytest.raises(UserError, match="was started with input"):
        run(other, tmp_path / "labels", tmp_path / "log")


class Choking:
    name = "choking"

    def __init__(self, bad):
        self.bad = bad

    def transcribe(self, recordings):
        if any(len(x) in self.bad for x in recordings):
            raise ValueError("cannot swallow this")
        return [Hypothesis(f"n\0o\n {len(x)}", -1.0, 2) for x in recordings]


class ChokingFactory:
    def __init__(self, bad):
        self.bad = bad

    def __call__(self):
        return Choking(self.bad)


def test_one_recording_that_chokes_the_recogniser_costs_itself_alone(tmp_path):
    lengths = [1000, 2000, 3000, 4000, 5000]
    made = [Utterance(str(n), "", "", encode_flac(np.ones(n), 16_000), 16_000, n) for n in lengths]
    made[3] = made[3]._replace(audio=b"fLaC and no more")
    write_shard(shard_path(tmp_path / "shards", 0), made)
    label(tmp_path / "shards", tmp_path / "labels", ChokingFactory([2000]), "x", batch_size=5, options=INLINE)
    found = read_labels(labels_path(tmp_path / "labels", 0))
    assert [x.text for x in found] == ["no 1000", "", "no 3000", "", "no 5000"]
    assert [math.isnan(x.score) for x in found] == [False, True, False, True, False]


def test_a_recogniser_that_only_fails_is_stopped(shards, tmp_path):
    with pytest.raises(UserError, match=rf"{MAX_FAILURES} utterances in a row.*cannot swallow"):
        label(shards, tmp_path / "labels", ChokingFactory(range(5000)), "x", batch_size=4, options=INLINE)


def test_two_processes_do_not_write_one_folder(shards, tmp_path):
    import fcntl

    (tmp_path / "labels").mkdir()
    with (tmp_path / "labels" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"):
            run(shards, tmp_path / "labels", tmp_path / "log")


def test_batches_are_even_and_depend_on_nothing_else():
    lengths = np.random.default_rng(0).integers(1, 1000, 531)
    batches = make_batches(lengths, 8)
    assert sorted(i for batch in batches for i in batch) == list(range(531))
    padded = sum(len(batch) * max(lengths[batch]) for batch in batches)
    assert lengths.sum() / padded > 0.9
    assert batches == make_batches(lengths, 8)
    assert re.fullmatch(r"(8 )+3", " ".join(str(len(batch)) for batch in batches))
