"""Files that are there whole or not at all."""

import os
import stat

import pytest

from deel_lip_tf._files.writing import NotWritten, whole_file, whole_folder


def test_a_file_is_replaced_once_it_is_whole(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with whole_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
def test_what_ends_early_leaves_the_older_file_and_nothing_else(error, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(error), whole_file(path) as file:
        file.write(b"new")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_an_error_of_the_disk_is_found_behind_what_cleans_up(tmp_path):
    """As `numpy.savez`, whose archive cannot be closed after a write has failed."""
    message = "No space left on device; what was there is kept"
    with pytest.raises(NotWritten, match=message), whole_file(tmp_path / "a"):
        try:
            raise OSError(28, "No space left on device")
        finally:
            raise ValueError("there is an open handle")


def test_a_path_that_cannot_be_is_not_blamed_on_the_disk(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "no" / "a"):
        pass


def test_a_file_has_the_rights_of_any_other(tmp_path):
    (tmp_path / "other").write_bytes(b"")
    with whole_file(tmp_path / "a") as file:
        file.write(b"new")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("other", "a")]
    assert modes[0] == modes[1]
    os.chmod(tmp_path / "a", 0o640)
    with whole_file(tmp_path / "a") as file:
        file.write(b"again")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_link_goes_on_leading_to_its_file(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with whole_file(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_what_is_no_file_is_written_to_and_not_replaced():
    with whole_file(os.devnull) as file:
        file.write(b"new")
    assert not os.path.isfile(os.devnull)
    with pytest.raises(NotWritten, match="No space left"), whole_file("/dev/full") as file:
        file.write(b"new")


def test_a_folder_is_replaced_once_it_is_whole(tmp_path):
    for name in ("old", "new"):
        with whole_folder(tmp_path / "a") as folder:
            folder.mkdir()
            (folder / name).write_bytes(b"")
    assert os.listdir(tmp_path) == ["a"] and os.listdir(tmp_path / "a") == ["new"]
    with pytest.raises(NotWritten), whole_folder(tmp_path / "a") as folder:
        folder.mkdir()
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == ["a"] and os.listdir(tmp_path / "a") == ["new"]
