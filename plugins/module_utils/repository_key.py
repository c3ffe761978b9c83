"""OpenPGP public keys, read without gpg: a bare host has none.

Only what tells one key from another is read (RFC 9580, sections 4.2, 5.5.4 and 6): packets and fingerprints.
The signatures themselves are checked by the package manager.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator

from .errors import HostError

__all__ = ["armoured", "fingerprints", "fingerprints_from_text", "key_packets"]

BLOCK = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\s*?\r?\n(.*?)-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL
)
ARMOUR = b"-----BEGIN PGP"
PUBLIC_KEY = 6
SECRET_KEYS = (5, 7)
LINE = 64
CRC24_START, CRC24_POLYNOMIAL = 0xB704CE, 0x1864CFB
# Version -> (what the hash begins with, bytes of the length, hash).
SCHEMES = {4: (b"\x99", 2, "sha1"), 5: (b"\x9a", 4, "sha256"), 6: (b"\x9b", 4, "sha256")}


def key_packets(data: bytes, *, where: str = "the key") -> bytes:
    """The packets of a key file, armoured or binary. Raises HostError when it holds no public key."""
    if ARMOUR in data:
        blocks = [_unarmoured(block, where) for block in BLOCK.findall(data)]
        packets = b"".join(blocks)
    else:
        packets = data
    tags = [tag for tag, _ in _packets(packets, where)]
    if any(tag in SECRET_KEYS for tag in tags):
        remedy = "keep it to yourself and give the public key"
        raise HostError("holds a secret key", where=where, remedy=remedy)
    if PUBLIC_KEY not in tags:
        raise _no_key(where)
    return packets


def fingerprints(packets: bytes, *, where: str = "the key") -> list[str]:
    """The fingerprint of every primary key, in upper-case hexadecimal digits. Raises HostError."""
    return [_fingerprint(body, where) for tag, body in _packets(packets, where) if tag == PUBLIC_KEY]


def fingerprints_from_text(text: str) -> set[str]:
    """What a person gave: fingerprints, spaces allowed, several with commas between. Raises ValueError."""
    found = {"".join(word.split()).upper().removeprefix("0X") for word in text.split(",")}
    for word in found:
        if not re.fullmatch(r"[0-9A-F]{40}|[0-9A-F]{64}", word):
            raise ValueError(f"{text[:80]!r} is no fingerprint")
    return found


def armoured(packets: bytes) -> bytes:
    """The packets as the text that ``apt`` and ``rpm`` read."""
    encoded = base64.b64encode(packets).decode("ascii")
    lines = [encoded[start : start + LINE] for start in range(0, len(encoded), LINE)]
    checksum = base64.b64encode(_crc24(packets).to_bytes(3, "big")).decode("ascii")
    name = "PGP PUBLIC KEY BLOCK"
    return "\n".join(
        [f"-----BEGIN {name}-----", "", *lines, f"={checksum}", f"-----END {name}-----", ""]
    ).encode()


def _unarmoured(block: bytes, where: str) -> bytes:
    """One block without its headers, which end at an empty line."""
    lines = [line.strip() for line in block.splitlines()]
    if any(b":" in line for line in lines) and b"" in lines:
        lines = lines[lines.index(b"") + 1 :]
    body = b"".join(line for line in lines if not line.startswith(b"="))
    checksums = [line[1:] for line in lines if len(line) == 5 and line.startswith(b"=")]
    try:
        packets = base64.b64decode(body, validate=True)
        expected = [int.from_bytes(base64.b64decode(line, validate=True), "big") for line in checksums]
    except binascii.Error as error:
        raise HostError("is damaged: no base64 text", where=where, remedy="fetch it again") from error
    if expected and expected[-1] != _crc24(packets):
        raise HostError("is damaged: its checksum differs", where=where, remedy="fetch it again")
    return packets


def _packets(data: bytes, where: str) -> Iterator[tuple[int, bytes]]:
    """Tag and body of each packet. Raises HostError where the data are no packets."""
    position = 0
    while position < len(data):
        try:
            tag, start, length = _header(data, position)
        except IndexError:
            raise _no_key(where) from None
        if start + length > len(data):
            raise _no_key(where)
        yield tag, data[start : start + length]
        position = start + length


def _header(data: bytes, position: int) -> tuple[int, int, int]:
    """Tag, where the body starts and how long it is. A tag of -1 is no packet at all."""
    first = data[position]
    if not first & 0x80:
        return -1, position, len(data) + 1
    if first & 0x40:
        return (first & 0x3F, *_new_length(data, position + 1))
    kind = first & 0x03
    if kind == 3:  # until the end of the file: never so in a key
        return -1, position, len(data) + 1
    width = 1 << kind
    field = data[position + 1 : position + 1 + width]
    return (first >> 2) & 0x0F, position + 1 + width, int.from_bytes(field, "big")


def _new_length(data: bytes, position: int) -> tuple[int, int]:
    first = data[position]
    if first < 192:
        return position + 1, first
    if first < 224:
        return position + 2, ((first - 192) << 8) + data[position + 1] + 192
    if first == 255:
        return position + 5, int.from_bytes(data[position + 1 : position + 5], "big")
    return position, len(data) + 1  # in parts: never so in a key


def _fingerprint(body: bytes, where: str) -> str:
    scheme = SCHEMES.get(body[0] if body else 0)
    if scheme is None:
        what = f"is of version {body[0] if body else 0}, which is too old to be trusted"
        raise HostError(what, where=where, remedy="ask its owner for a newer one")
    start, width, name = scheme
    digest = hashlib.new(name, start + len(body).to_bytes(width, "big") + body, usedforsecurity=False)
    return digest.hexdigest().upper()


def _crc24(data: bytes) -> int:
    value = CRC24_START
    for byte in data:
        value ^= byte << 16
        for _ in range(8):
            value <<= 1
            if value & 0x1000000:
                value ^= CRC24_POLYNOMIAL
    return value & 0xFFFFFF


def _no_key(where: str) -> HostError:
    return HostError("is no OpenPGP public key", where=where, remedy="check the address, or the text")
