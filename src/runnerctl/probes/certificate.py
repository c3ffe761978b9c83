"""Who issued a certificate: the one thing to know of one that is not trusted, read out of its DER.

Python tells of a certificate's content only when it is trusted; this reads no more than the issuer's names.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["issuer_of"]

_SEQUENCE, _SET, _VERSION = 0x30, 0x31, 0xA0
_COMMON_NAME, _ORGANISATION = b"\x55\x04\x03", b"\x55\x04\x0a"  # 2.5.4.3 and 2.5.4.10, X.520
_TEXTS = {0x0C: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1E: "utf-16-be"}
_LONGEST = 80  # characters of a name


def issuer_of(der: bytes) -> str | None:
    """The issuer's common name, or its organisation; None when ``der`` is no certificate (RFC 5280, 4.1)."""
    try:
        certificate = next(_items(der))[1]
        fields = list(_items(next(_items(certificate))[1]))
        start = 1 if fields[0][0] == _VERSION else 0
        names = dict(_names(fields[start + 2][1]))  # behind serial number and algorithm
    except (StopIteration, IndexError, RuntimeError):
        return None
    return names.get(_COMMON_NAME) or names.get(_ORGANISATION)


def _names(content: bytes) -> Iterator[tuple[bytes, str]]:
    """Pairs of object identifier and text of a Name: a sequence of sets of sequences."""
    for kind, group in _items(content):
        for _, pair in _items(group) if kind == _SET else ():
            (_, key), (tag, value) = list(_items(pair))[:2]
            text = value.decode(_TEXTS.get(tag, "latin-1"), "replace")
            yield key, "".join(each for each in text if each.isprintable())[:_LONGEST]


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements that follow each other in ``data``: tag and content."""
    position = 0
    while position < len(data):
        tag, length = data[position], data[position + 1]
        position += 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(data[position : position + count], "big")
            position += count
        if position + length > len(data):
            return
        yield tag, data[position : position + length]
        position += length
