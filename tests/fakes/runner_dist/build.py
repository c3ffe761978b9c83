"""Writes ``actions-runner-linux-<architecture>-<version>.tar.gz`` with reproducible bytes."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

from tests.fakes.runner_dist.archive import write

ARCHITECTURES = {"x64": "X64", "arm64": "ARM64"}
_HERE = Path(__file__).parent
_NATIVE = (
    "libcoreclr.so",
    "libclrjit.so",
    "libSystem.Security.Cryptography.Native.OpenSsl.so",
    "libSystem.IO.Compression.Native.so",
)
# A runner of about 175 MiB consists of some 5,130 files.
_PADDING_FILE_BYTES = 35 * 1024


def filename(version: str, architecture: str) -> str:
    """The release's own file name."""
    return f"actions-runner-linux-{architecture}-{version}.tar.gz"


def sha256(path: Path) -> str:
    """SHA-256 of a file, lower-case hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build(
    version: str, architecture: str, directory: Path, *, payload_mib: int = 0, needs_icu: bool = False
) -> Path:
    """Write the tarball into ``directory`` and return its path.

    ``payload_mib`` pads it with that many MiB that do not compress; ``needs_icu`` makes the listener abort on
    a host without libicu, as .NET does. Raises ValueError for an architecture other than x64 and arm64.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture {architecture!r}: use {' or '.join(ARCHITECTURES)}")
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / filename(version, architecture)
    facts = {
        "version": version,
        "architecture": ARCHITECTURES[architecture],
        "commit": hashlib.sha256(version.encode()).hexdigest()[:40],
        "needs_icu": needs_icu,
    }
    with open(target, "wb") as raw:
        write(raw, dict([*_files(facts), *_padding(payload_mib)]))
    return target


def _files(facts: dict[str, object]) -> Iterator[tuple[str, bytes]]:
    """Every file's path in the archive and its content."""
    layout = _HERE / "layout"
    for path in sorted(layout.rglob("*")):
        name = path.relative_to(layout).as_posix()
        if path.is_file() and name != "node" and "__pycache__" not in name:
            yield name, path.read_bytes()
    for path in sorted((_HERE / "standin").glob("*.py")):
        yield f"bin/standin/{path.name}", path.read_bytes()
    yield "bin/standin/release.json", json.dumps(facts, indent=2, sort_keys=True).encode() + b"\n"
    for name in _NATIVE:
        yield f"bin/{name}", b"stands in for a native library\n"
    node = (layout / "node").read_text(encoding="utf-8")
    for major in ("20", "24"):
        yield f"externals/node{major}/bin/node", node.replace("@NODE@", major).encode()


def _padding(mebibytes: int) -> Iterator[tuple[str, bytes]]:
    source = random.Random(mebibytes)  # noqa: S311 (bytes that do not compress, always the same)
    for number in range(mebibytes * 1024 * 1024 // _PADDING_FILE_BYTES):
        name = f"externals/node24/lib/padding/{number // 100}/{number}.bin"
        yield name, source.randbytes(_PADDING_FILE_BYTES)
