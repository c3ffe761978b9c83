"""Builds an installer with the flags, messages and results of Miniforge's own, without a conda inside.

``Miniforge3-<version>-Linux-<machine>.sh`` is a shell script with an archive behind it, as the real one;
beside it lies ``.sha256``, whose line names ``./Miniforge3-...``. The unversioned copy of a release has no
checksum file.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

from tests.fakes.runner_dist.archive import write

VERSION = "26.3.2-3"
MACHINES = ("x86_64", "aarch64")
_HERE = Path(__file__).parent
_CONDARC = b"channels:\n  - conda-forge\n"


def filename(version: str, machine: str) -> str:
    """The release's own file name."""
    return f"Miniforge3-{version}-Linux-{machine}.sh"


def build(version: str, machine: str, directory: Path) -> Path:
    """Write the installer and its ``.sha256`` into ``directory``; returns the installer's path.

    The version is ``<conda version>-<build>``. Raises ValueError for a machine other than x86_64 and aarch64.
    """
    if machine not in MACHINES:
        raise ValueError(f"machine {machine!r}: use {' or '.join(MACHINES)}")
    directory.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    write(packed, _prefix(version.rpartition("-")[0] or version, machine))
    payload = packed.getvalue()
    header = (_HERE / "layout" / "installer.sh").read_text(encoding="utf-8")
    header = header.replace("@VERSION@", version).replace("@MACHINE@", machine)
    header = header.replace("@PAYLOAD_SHA256@", hashlib.sha256(payload).hexdigest())
    # Both numbers have a fixed width, so that putting them in does not move what they count.
    header = header.replace("@HEADER@", f"{len(header.encode()):08d}")
    header = header.replace("@PAYLOAD@", f"{len(payload):09d}")
    target = directory / filename(version, machine)
    target.write_bytes(header.encode() + payload)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    (directory / f"{target.name}.sha256").write_text(f"{digest}  ./{target.name}\n", encoding="ascii")
    return target


def _prefix(version: str, machine: str) -> dict[str, bytes]:
    """What the installer puts into its prefix."""
    layout = _HERE / "layout"
    program = (layout / "conda.py").read_bytes().replace(b"@VERSION@", version.encode())
    condabin = b'#!/bin/sh\nexec "$(dirname "$(readlink -f "$0")")/../bin/conda" "$@"\n'
    python = b'#!/bin/sh\nexec /usr/bin/python3 "$@"\n'
    subdirectory = "linux-64" if machine == "x86_64" else "linux-aarch64"
    return {
        ".condarc": _CONDARC,
        "LICENSE.txt": b"Miniforge's own code is under the 3-clause BSD licence.\n",
        "_conda": program,
        "bin/activate": b'# Source me.\n. "$(dirname "$CONDA_EXE")/../etc/profile.d/conda.sh"\n',
        "bin/conda": program,
        "bin/mamba": program,
        "bin/python": python,
        "bin/python3": python,
        "condabin/conda": condabin,
        "condabin/mamba": condabin,
        "conda-meta/history": b"==> 2026-03-14 00:00:00 <==\n# cmd: constructor\n",
        f"conda-meta/conda-{version}-py313h0_0.json": _record("conda", version, subdirectory),
        "conda-meta/mamba-2.5.0-h0_0.json": _record("mamba", "2.5.0", subdirectory),
        "conda-meta/python-3.13.12-h0_0_cp313.json": _record("python", "3.13.12", subdirectory),
        "etc/profile.d/conda.sh": (layout / "conda.sh").read_bytes(),
        "pkgs/urls.txt": b"",
        f"pkgs/conda-{version}-py313h0_0.conda": b"stands in for a package\n",
    }


def _record(name: str, version: str, subdirectory: str) -> bytes:
    build = {"conda": "py313h0_0", "mamba": "h0_0", "python": "h0_0_cp313"}[name]
    record = {
        "name": name,
        "version": version,
        "build": build,
        "build_number": 0,
        "channel": f"conda-forge/{subdirectory}",
        "fn": f"{name}-{version}-{build}.conda",
        "subdir": subdirectory,
        "files": [f"bin/{name}"],
        "depends": [],
    }
    return json.dumps(record, indent=2, sort_keys=True).encode() + b"\n"
