"""The members of a tar by their headers alone: where each file's bytes lie, none of them read.

A header is 512 bytes in front of its member, so a tar of pictures is listed by one small read a
picture. Files with plain, ``pax`` or GNU headers are understood; what cannot be addressed (a
compressed tar, a sparse file) is a ``UserError``. ``tarfile`` does the same at a third of the speed
and is the reference of ``tests/test_blobs.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fourm.errors import UserError

_BLOCK = 512
_AHEAD = 4 * _BLOCK  # a pax header, its records and the member's own header in one read
_MOST_DIGITS = 19  # of a number of bytes
_MAX_RECORDS = 1 << 20  # bytes of the extended header of one member
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_FILE, _LONG_NAME, _PAX, _SPARSE = (b"0", b"\0", b"7"), b"L", b"x", b"S"


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar."""

    name: str
    offset: int  # of its first byte
    size: int  # bytes


def members_of(path: str | Path) -> Iterator[Member]:
    """The files of a tar, in order. Raises UserError where it is damaged, after those before.

    A member that is cut short is listed: its ``offset + size`` is behind the end of the file.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        yield from _members(fd)
    finally:
        os.close(fd)


def _members(fd: int) -> Iterator[Member]:
    at, end, records = 0, os.fstat(fd).st_size, {}
    while at < end:
        ahead = os.pread(fd, _AHEAD, at)
        header = ahead[:_BLOCK]
        if not header.strip(b"\0"):
            return
        size = _size_of(header, at)
        kind, body = header[156:157], at + _BLOCK
        if kind in (_PAX, _LONG_NAME):
            if size > _MAX_RECORDS:
                raise UserError(f"the header at byte {at} announces {size} bytes of records")
            text = ahead[_BLOCK : _BLOCK + size]
            if len(text) < size:
                text = os.pread(fd, size, body)
            records |= _records(text) if kind == _PAX else {b"path": text.rstrip(b"\0")}
        else:
            if kind == _SPARSE or any(key.startswith(b"GNU.sparse") for key in records):
                raise UserError(f"the member at byte {at} is a sparse file: pack the tar again")
            size = _whole(records[b"size"], at) if b"size" in records else size
            if kind in _FILE:
                name = records.get(b"path") or _name_of(header)
                yield Member(name.decode("utf-8", "surrogateescape"), body, size)
            records = {}
        at = body + -(-size // _BLOCK) * _BLOCK
    if at > end:
        raise UserError("the last member is cut short")


def _size_of(header: bytes, at: int) -> int:
    """Bytes of a member, of a header whose checksum is right."""
    if at == 0 and header.startswith(_COMPRESSED):
        raise UserError("a compressed tar has no addresses: unpack it")
    if len(header) < _BLOCK:
        raise UserError("the last header is cut short")
    try:
        stated, size = _octal(header[148:156]), _octal(header[124:136])
    except ValueError:
        raise UserError(f"no header of a tar at byte {at}") from None
    if size < 0:  # which would lead back to this header
        raise UserError(f"the member at byte {at} announces {size} bytes")
    # the sum is of all bytes, with blanks in its own place
    if sum(header) - sum(header[148:156]) + 8 * ord(" ") != stated:
        raise UserError(f"the header at byte {at} is damaged")
    return size


def _whole(digits: bytes, at: int) -> int:
    """A size in an extended header."""
    if not digits.isdigit() or len(digits) > _MOST_DIGITS:
        raise UserError(f"the header at byte {at} announces no number of bytes")
    return int(digits)


def _octal(field: bytes) -> int:
    if field[0] == 0x80:  # GNU: large numbers are binary
        return int.from_bytes(field[1:], "big")
    return int(field.rstrip(b" \0") or b"0", 8)


def _name_of(header: bytes) -> bytes:
    name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
    # of GNU's older headers that place holds something else
    is_posix = header[257:263] == b"ustar\0"
    return prefix + b"/" + name if prefix and is_posix else name


def _records(text: bytes) -> dict[bytes, bytes]:
    """Of a pax header, lines ``<bytes of the line> <key>=<value>``."""
    found = {}
    while text.strip(b"\0"):
        length = text.partition(b" ")[0]
        if not length.isdigit() or len(length) > _MOST_DIGITS or int(length) <= len(length):
            raise UserError("an extended header is damaged")
        key, _, value = text[len(length) + 1 : int(length) - 1].partition(b"=")
        found[key] = value
        text = text[int(length) :]
    return found
