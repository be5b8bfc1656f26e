import itertools
import math
import tracemalloc

import numpy as np
import pytest
import soundfile
from librilight_tree import RATE, add_chapter, talk

from spectron.audio.vad import VadConfig
from spectron.corpora.cutting import CuttingConfig
from spectron.corpora.librilight import (
    Chapter,
    SpeakerSplitConfig,
    list_chapters,
    read_meta,
    recording_at,
    share_of,
    split,
    utterances_of,
)
from spectron.types import UserError

SPANS = [[0.96, 6.0], [7.04, 12.0], [13.04, 19.04], [20.0, 29.04]]
BOOK = "small/100/sea_fairies_0812_librivox_64kb_mp3"


def cut(root, config=CuttingConfig()):  # noqa: B008 - frozen
    rejected = {}
    made = [u for c in list_chapters(root) for u in utterances_of(c, config, VadConfig(), rejected)]
    return made, rejected


def test_the_layout_and_the_names(tmp_path):
    add_chapter(tmp_path, f"{BOOK}/01_baum_64kb", talk(SPANS, 30), SPANS)
    add_chapter(tmp_path, "duplicate/7/b/01.part", talk(SPANS, 30), SPANS)
    (tmp_path / "small" / "README.txt").write_text("no speaker")
    (tmp_path / BOOK / "notes.txt").write_text("no chapter")
    chapters = list_chapters(tmp_path)
    assert [c.name for c in chapters] == ["duplicate/7/b/01.part", f"{BOOK}/01_baum_64kb"]
    assert chapters[1][2:4] == ("100", "sea_fairies_0812_librivox_64kb_mp3")
    assert list_chapters(tmp_path / "small") == chapters[1:]
    meta, odd = read_meta(chapters[0])
    assert not odd
    assert math.isnan(meta.snr)
    assert meta.activity == tuple(map(tuple, SPANS))


def test_links_and_suffixes(tmp_path, caplog):
    first = add_chapter(tmp_path / "far", f"{BOOK}/01", talk(SPANS, 30), SPANS)
    first.rename(first.with_suffix(".FLAC"))
    soundfile.write(first.with_name("02.wav"), talk(SPANS, 30), RATE)
    (first.with_name("03.m4a")).write_bytes(b"x")
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "100").symlink_to(tmp_path / "far" / "small" / "100")
    (tmp_path / "small" / "200").symlink_to(tmp_path / "far" / "small" / "100")
    (tmp_path / "small" / "ring").symlink_to(tmp_path / "small")
    chapters = list_chapters(tmp_path)
    assert [c.name for c in chapters] == [f"{BOOK}/01", f"{BOOK}/02"]
    assert "1 file passed over: 1 .m4a" in caplog.text
    assert [read_meta(c)[1] for c in chapters] == ["", "without JSON: own voice activity"]
    assert recording_at(tmp_path / BOOK / "01").name == "01.FLAC"
    assert recording_at(tmp_path / BOOK / "gone").name == "gone.flac"


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_root_without_chapters_is_the_users_mistake(tmp_path, folder):
    with pytest.raises(UserError, match=r"Libri-Light|chapters"):
        list_chapters(tmp_path / folder)


def test_utterances_are_the_chapters_own_samples_silence_included(tmp_path):
    samples = talk(SPANS, 30)
    add_chapter(tmp_path, f"{BOOK}/01", samples, SPANS)
    made, rejected = cut(tmp_path)
    assert not rejected
    assert [round(u.seconds, 2) for u in made] == [11.52, 6.48, 9.52]
    for u in made:
        start = round(u.start * RATE)
        np.testing.assert_array_equal(u.samples(), samples[start : start + u.num_samples])
        assert u.id == f"{BOOK}/01@{start}"
        assert (u.speaker, u.book, u.recording, u.text) == ("100", BOOK.split("/")[-1], f"{BOOK}/01", "")


def test_silence_is_dropped_on_demand(tmp_path):
    samples = talk(SPANS, 30)
    add_chapter(tmp_path, f"{BOOK}/01", samples, SPANS)
    made, _ = cut(tmp_path, CuttingConfig(drop_silence=True))
    first = np.concatenate([samples[round(a * RATE) : round(b * RATE)] for a, b in SPANS[:2]])
    np.testing.assert_array_equal(made[0].samples(), first)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (None, "without JSON: own voice activity"),
        ('{"snr": NaN, "voice_act', "with broken JSON: own voice activity"),
        ("[1, 2]", "with broken JSON: own voice activity"),
        ('{"snr": NaN, "book_meta": null}', "without voice_activity: own"),
        ('{"voice_activity": [[1, "x"]], "book_meta": ["?"]}', "without voice_activity: own"),
        ('{"voice_activity": [[NaN, 3]]}', "without voice_activity: own"),
        ("[" * 100_000, "with broken JSON: own voice activity"),
    ],
)
def test_without_a_usable_json_our_own_ear_decides(tmp_path, text, note):
    path = add_chapter(tmp_path, f"{BOOK}/01", talk(SPANS, 30))
    if text is not None:
        path.with_suffix(".json").write_text(text)
    made, rejected = cut(tmp_path)
    assert rejected == {f"note: chapters {note}": [f"{BOOK}/01"]}
    assert 26 < sum(u.seconds for u in made) < 30


def test_whatever_is_wrong_with_chapters_is_counted_and_named(tmp_path):
    good = add_chapter(tmp_path, f"{BOOK}/good", talk(SPANS, 30), SPANS)
    add_chapter(tmp_path, f"{BOOK}/liar", talk(SPANS, 30), SPANS, seconds=3000.0)
    add_chapter(tmp_path, f"{BOOK}/nan", talk(SPANS, 30), SPANS, seconds=float("nan"))
    add_chapter(tmp_path, f"{BOOK}/beyond", talk(SPANS, 30), [*SPANS[:3], [20.0, 40.0], [50.0, 60.0]])
    add_chapter(tmp_path, f"{BOOK}/rate", talk(SPANS, 30), SPANS, rate=8000)
    add_chapter(tmp_path, f"{BOOK}/stereo", np.stack([talk(SPANS, 30)] * 2, 1), SPANS)
    add_chapter(tmp_path, f"{BOOK}/short", talk([(1, 2)], 3), [[1, 2]])
    add_chapter(tmp_path, f"{BOOK}/nothing", np.zeros(0, np.int16), [])
    add_chapter(tmp_path, f"{BOOK}/quiet", talk([], 30), [])
    add_chapter(tmp_path, f"{BOOK}/silent", talk([], 30))
    add_chapter(tmp_path, f"{BOOK}/crumbs", talk([(1, 2), (10, 11)], 30), [[1, 2], [10, 11]])
    (tmp_path / BOOK / "empty.flac").write_bytes(b"")
    (tmp_path / BOOK / "film.flac").write_bytes(b"\0\0\0 ftypisom" * 50)
    whole = good.read_bytes()
    (tmp_path / BOOK / "cut.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / BOOK / "cut.json").write_text(good.with_suffix(".json").read_text())
    (tmp_path / BOOK / "cut_alone.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / BOOK / "folder.flac").mkdir()
    made, rejected = cut(tmp_path)

    def names(reason):
        return [name.removeprefix(f"{BOOK}/").split("@")[0] for name in rejected.pop(reason)]

    assert names("chapters whose JSON states another length") == ["liar", "nan"]
    assert names("note: chapters with voice_activity beyond the end: clipped") == ["beyond"]
    assert names("chapters not at 16000 Hz") == ["rate"]
    assert names("chapters not mono") == ["stereo"]
    assert names("chapters shorter than min_seconds") == ["short"]
    assert names("chapters without voice") == ["quiet", "silent"]
    assert names("utterances shorter than min_seconds") == ["crumbs", "crumbs"]
    assert names("chapters whose audio cannot be read") == ["empty", "film", "nothing"]
    assert names("note: chapters without JSON: own voice activity") == ["silent"]
    damaged = {name: names(name) for name in list(rejected)}
    assert sorted(n for found in damaged.values() for n in found) == ["cut", "cut_alone"]
    assert all("damaged" in reason or "breaks off" in reason for reason in damaged)
    kept = [u.id.removeprefix(f"{BOOK}/").split("@")[0] for u in made]
    assert kept == ["beyond"] * 3 + ["good"] * 3
    assert all(u.samples().any() for u in made)


def test_no_damage_is_fatal(tmp_path):
    """Bytes flipped, dropped or repeated anywhere in the FLAC, and the JSON cut anywhere."""
    rng = np.random.default_rng(0)
    path = add_chapter(tmp_path, f"{BOOK}/01", talk(SPANS[:2], 14, noise=3.0), SPANS[:2])
    whole, stated = path.read_bytes(), path.with_suffix(".json").read_text()
    outcomes = set()
    for i in range(60):
        broken = bytearray(whole)
        at = int(rng.integers(0, len(whole) if i % 2 else 200))
        if i % 3 == 0:
            broken[at : at + 4] = rng.bytes(4)
        elif i % 3 == 1:
            del broken[at : at + int(rng.integers(1, 5000))]
        else:
            broken[at:at] = broken[at : at + 100]
        path.write_bytes(broken)
        path.with_suffix(".json").write_text(stated[: int(rng.integers(0, len(stated)))] if i % 4 == 0 else stated)
        made, rejected = cut(tmp_path)
        assert made or rejected
        assert all(u.samples().size == u.num_samples for u in made)
        outcomes |= set(rejected)
    for unit in ("cannot be read", "is damaged"):
        assert any(reason.startswith("chapters whose audio") and reason.endswith(unit) for reason in outcomes), outcomes


@pytest.mark.parametrize(
    "pair", ["[1e308, 3]", "[0, 1e308]", "[-1e308, 1e308]", "[5, 2]", "[3, 3]", "[[], 1]", "[1, 2, 3]"]
)
def test_no_voice_activity_is_fatal(tmp_path, pair):
    path = add_chapter(tmp_path, f"{BOOK}/01", talk(SPANS[:2], 14))
    path.with_suffix(".json").write_text(f'{{"voice_activity": [{pair}], "file_length_sec": 14.0}}')
    made, rejected = cut(tmp_path)
    assert made or rejected
    assert all(u.seconds <= 16 for u in made)


def test_a_three_hour_chapter_is_never_in_memory(tmp_path):
    path = tmp_path / BOOK / "long.flac"
    path.parent.mkdir(parents=True)
    minute = talk([(2, 9), (11, 14)], 60, noise=0.0)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16", format="FLAC", compression_level=0) as file:
        for number in range(180):
            file.write(minute if number % 6 == 0 else np.zeros_like(minute))
    tracemalloc.start()
    seconds, rejected = 0.0, {}
    for u in utterances_of(list_chapters(tmp_path)[0], CuttingConfig(), VadConfig(), rejected):
        assert u.seconds <= 16
        seconds += u.seconds
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert list(rejected) == ["note: chapters without JSON: own voice activity"]
    assert seconds == pytest.approx(30 * 12.5, rel=0.06)
    assert peak < 40e6, "the whole is 345 MB"


def test_no_speaker_and_no_book_is_in_two_splits():
    rng = np.random.default_rng(0)
    chapters = [
        Chapter(f"small/{s}/b{b}/c{i}", "", str(s), f"b{b}", 1)
        for i, (s, b) in enumerate(zip(rng.integers(0, 300, 4000), rng.integers(0, 500, 4000), strict=True))
    ]
    config = SpeakerSplitConfig(dev_share=0.03, test_share=0.03)
    splits, left_out = split(chapters, config)
    assert all(splits.values())
    assert sum(map(len, splits.values())) + len(left_out) == len(chapters)
    for a, b in itertools.combinations(splits.values(), 2):
        assert not {c.speaker for c in a} & {c.speaker for c in b}
        assert not {c.book for c in a} & {c.book for c in b}
    again, _ = split(list(reversed(chapters)), config)
    assert {name: set(found) for name, found in again.items()} == {name: set(c) for name, c in splits.items()}
    # A speaker stays where they are when others come and go.
    some, _ = split(chapters[:1000], config)
    assert {c.speaker for c in some["test"]} <= {c.speaker for c in splits["test"]}


def test_shares_are_met_and_names_do_not_move():
    config = SpeakerSplitConfig(dev_share=0.1, test_share=0.2)
    found = [share_of(str(i), config) for i in range(5000)]
    assert found.count("dev") / 5000 == pytest.approx(0.1, abs=0.02)
    assert found.count("test") / 5000 == pytest.approx(0.2, abs=0.02)
    assert [share_of(str(i), SpeakerSplitConfig(salt="x")) for i in range(5000)] != found
    assert found[:12] == GOLDEN


GOLDEN = ["test", "train", "train", "train", "train", "test", *["train"] * 6]


def test_the_real_fixture(data_dir):
    made, rejected = cut(data_dir / "librilight_like")
    assert not rejected
    assert {u.speaker for u in made} == {"1088", "226"}
    assert sum(u.seconds for u in made) > 58
    assert all(u.samples().any() for u in made)
