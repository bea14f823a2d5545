"""Files that were changed at random, as bad disks and bad people change them."""

import gzip
import io
import random
import re
import zipfile

__all__ = ["mutated"]


def mutated(content: bytes, name: str, rng: random.Random) -> bytes:
    """The content of a file, changed; archives mostly inside, where no checksum tells.

    Args:
        content: of the file.
        name: of the file, whose end says how it is compressed.
        rng: of the changes.
    """
    if rng.random() < 0.25:
        return _changed(content, rng)
    if name.endswith(".gz"):
        return gzip.compress(_changed(gzip.decompress(content), rng), 1)
    if zipfile.is_zipfile(io.BytesIO(content)):
        return _repacked(content, rng)
    return _changed(content, rng)


def _repacked(content: bytes, rng: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chosen = rng.choice(sorted(members))
    if rng.random() < 0.1:
        del members[chosen]
    else:
        members[chosen] = _changed(members[chosen], rng)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return packed.getvalue()


def _changed(content: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 1, 2, 5])):
        content = rng.choice(_CHANGES)(content, rng)
    return content


def _place(content: bytes, rng: random.Random) -> int:
    return rng.randrange(max(1, len(content)))


def _flipped(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content or b"\0")
    changed[_place(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: _place(content, rng)]


def _without_a_piece(content: bytes, rng: random.Random) -> bytes:
    at = _place(content, rng)
    return content[:at] + content[at + rng.choice([1, 4, 64]) :]


def _with_a_piece_twice(content: bytes, rng: random.Random) -> bytes:
    at = _place(content, rng)
    return content[:at] + content[at : at + rng.choice([1, 8, 200])] * 2 + content[at:]


def _with_noise(content: bytes, rng: random.Random) -> bytes:
    at, size = _place(content, rng), rng.choice([1, 4, 16])
    return content[:at] + rng.randbytes(size) + content[at + size :]


def _with_extremes(content: bytes, rng: random.Random) -> bytes:
    at, byte = _place(content, rng), rng.choice([b"\0", b"\xff", b"\x7f", b"\x80"])
    size = rng.choice([1, 4, 8])
    return content[:at] + byte * size + content[at + size :]


def _with_another_number(content: bytes, rng: random.Random) -> bytes:
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?", content[:100_000]))
    if not numbers:
        return _flipped(content, rng)
    found, values = rng.choice(numbers), [b"0", b"-1", b"1e999", b"NaN", b"null", b'"a"', b"7" * 9]
    return content[: found.start()] + rng.choice(values) + content[found.end() :]


def _with_another_word(content: bytes, rng: random.Random) -> bytes:
    words = list(re.finditer(rb"[A-Za-z_]{3,}", content[:100_000]))
    if not words:
        return _flipped(content, rng)
    one, other = rng.choice(words), rng.choice(words)
    return content[: one.start()] + other.group() + content[one.end() :]


_CHANGES = (
    *(_flipped, _cut, _without_a_piece, _with_a_piece_twice, _with_noise, _with_extremes),
    *(_with_another_number, _with_another_word),
)
