"""What was done stays done, and a folder belongs to one plan."""

import pytest

from spectron.types import UserError
from spectron.utils.chunk_cache import ChunkCache


def test_a_second_run_does_only_what_is_missing(tmp_path):
    done = []

    def work(numbers, dies_at=99):
        if dies_at in numbers:
            raise KeyboardInterrupt
        done.append(list(numbers))
        return repr(list(numbers)).encode()

    cache = ChunkCache(tmp_path / "j", {"seed": 1, "ids": ("a",)})
    with pytest.raises(KeyboardInterrupt):
        cache.chunks(7, 3, lambda numbers: work(numbers, 4), "counting")
    (tmp_path / "j" / ".0000003.dead.part").write_bytes(b"half")
    cache = ChunkCache(tmp_path / "j", {"ids": ["a"], "seed": 1})
    assert cache.chunks(7, 3, work, "counting") == [b"[0, 1, 2]", b"[3, 4, 5]", b"[6]"]
    assert done == [[0, 1, 2], [3, 4, 5], [6]]
    assert sorted(path.name for path in (tmp_path / "j").iterdir()) == ["0000000", "0000003", "0000006", "plan.json"]


def test_another_plan_is_refused_by_name(tmp_path):
    ChunkCache(tmp_path, {"seed": 1, "ids": ["a" * 100]})
    with pytest.raises(UserError, match=r"another seed \(1, not 2\); choose another --out"):
        ChunkCache(tmp_path, {"seed": 2, "ids": ["a" * 100]})
    with pytest.raises(UserError, match=r'another ids \(\["aaa.{60,}…, not null\)'):
        ChunkCache(tmp_path, {"seed": 1})
    (tmp_path / "plan.json").write_text("[1]")
    with pytest.raises(UserError, match=r"plan\.json' holds no plan; delete its folder"):
        ChunkCache(tmp_path, {"seed": 1})
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        ChunkCache(tmp_path, {"seed": 1})
