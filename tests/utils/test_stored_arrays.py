import numpy as np
import pytest

from spectron.utils.stored_arrays import digest, stored_arrays


def arrays():
    return {"a": np.arange(5, dtype=np.int32), "b": np.zeros((0, 2), np.int8), "c": np.arange(6.0).reshape(2, 3)}


@pytest.fixture
def counted():
    calls = []

    def compute():
        calls.append(1)
        return arrays()

    compute.calls = calls
    return compute


def assert_arrays(found):
    for name, array in arrays().items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype and found[name].shape == array.shape


def test_arrays_are_computed_once_for_each_key(tmp_path, counted):
    places = [tmp_path / "deep" / "x", tmp_path / "y"]
    for _ in range(3):
        assert_arrays(stored_arrays(places, "one", counted))
    assert len(counted.calls) == 1
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["x"]
    assert_arrays(stored_arrays(places, "two", counted))
    assert len(counted.calls) == 2


@pytest.mark.parametrize("damage", [b"", b"junk", b"{}\n"])
def test_a_damaged_file_is_computed_anew(tmp_path, counted, damage):
    stored_arrays([tmp_path / "x"], "k", counted)
    whole = (tmp_path / "x").read_bytes()
    for content in (damage, whole[:-1], whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]):
        (tmp_path / "x").write_bytes(content)
        assert_arrays(stored_arrays([tmp_path / "x"], "k", counted))
    assert len(counted.calls) == 4


def test_the_next_place_is_used_where_the_first_cannot_be_written(tmp_path, counted):
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file" / "x", tmp_path / "y"]
    assert_arrays(stored_arrays(places, "k", counted))
    assert_arrays(stored_arrays(places, "k", counted))
    assert len(counted.calls) == 1
    nowhere = [tmp_path / "file" / "x"]
    assert_arrays(stored_arrays(nowhere, "k", counted))
    assert_arrays(stored_arrays(nowhere, "k", counted))
    assert len(counted.calls) == 3


def test_a_digest_tells_parts_apart():
    assert len({digest(parts) for parts in (["a", "b"], ["ab"], ["a", ["b"]], ["a", "b", None])}) == 4
