"""Folders that are to be written: whatever is wrong with a path is one sentence, before any work."""

import pytest

from spectron.types import UserError
from spectron.utils.files import check_new, check_out, new_folder


def a_file(folder):
    path = folder / "a file"
    path.write_text("content")
    return path


def a_broken_link(folder):
    (folder / "link").symlink_to(folder / "nothing")
    return folder / "link"


WRONG = {
    "a file": a_file,
    "below a file": lambda folder: a_file(folder) / "out",
    "a name that is too long": lambda folder: folder / ("a" * 300),
    "a path that is too long": lambda folder: folder.joinpath(*["part"] * 2000),
    "a broken link": a_broken_link,
    "an address": lambda folder: "abfs://container/out",
    "a NUL": lambda folder: f"{folder}/a\0b",
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("check", [check_new, check_out])
def test_a_path_that_cannot_be_a_folder_is_refused(check, name, tmp_path):
    with pytest.raises(UserError) as caught:
        check(WRONG[name](tmp_path))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_a_new_folder_holds_nothing(tmp_path):
    a_file(tmp_path)
    check_out(tmp_path)
    with pytest.raises(UserError, match="is not empty"):
        check_new(tmp_path)


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    def fill():
        with new_folder(tmp_path / "out") as folder:
            (folder / "part").write_text("content")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        fill()
    assert not list(tmp_path.iterdir())
