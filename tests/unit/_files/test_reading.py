"""How much a compressed file may unpack to."""

import gzip
import io
import zipfile

import pytest

from deel_lip_tf._files import reading
from deel_lip_tf._files.reading import check_archive, content_of


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(reading, "_ALWAYS", 2000)


def archive(path, *sizes):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for i, size in enumerate(sizes):
            file.writestr(str(i), bytes(size))
    return path


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("sizes", [(10**6,), (60_000,) * 20])
def test_an_archive_that_unpacks_to_too_much_is_refused(sizes, tmp_path):
    with pytest.raises(ValueError, match="taken for an attack. If it is none, unpack it"):
        check_archive(archive(tmp_path / "a.npz", *sizes))


@pytest.mark.usefixtures("small_limit")
def test_other_archives_and_what_is_none_pass(tmp_path):
    assert check_archive(archive(tmp_path / "a.npz", 1000, 900)) is None
    (tmp_path / "b").write_bytes(b"no archive")
    assert check_archive(tmp_path / "b") is None


@pytest.mark.usefixtures("small_limit")
def test_gzip_stops_unpacking_where_it_is_too_much(tmp_path, monkeypatch):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(bytes(10**7)))
    written = []

    class Counted(io.BytesIO):
        def write(self, content):
            written.append(len(content))
            return super().write(content)

    monkeypatch.setattr(reading.io, "BytesIO", Counted)
    with pytest.raises(ValueError, match="taken for an attack"):
        content_of(path)
    assert sum(written) <= 100 * path.stat().st_size + 1


def test_gzip_is_read_as_python_reads_it(tmp_path):
    for content in (b"", b"one", bytes(range(256)) * 300):
        for packed in (gzip.compress(content), gzip.compress(content) + bytes(5)):
            (tmp_path / "a.gz").write_bytes(packed)
            assert content_of(tmp_path / "a.gz") == gzip.decompress(packed) == content
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"one") + gzip.compress(b"two"))
    assert content_of(tmp_path / "a.gz") == b"onetwo"


@pytest.mark.parametrize("end", [0, 3, 15, -9, -1])
def test_gzip_that_is_cut_off_is_refused(end, tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"a sentence of some length")[:end])
    if end == 0:
        assert content_of(path) == b""  # as Python's gzip reads it
        return
    with pytest.raises(ValueError, match="is not compressed by gzip"):
        content_of(path)
