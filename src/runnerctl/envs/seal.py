"""What of an environment no package vouches for: its marker, links, bytecode. Sealed when it is published."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import msgspec

from runnerctl.envs.model import Manifest
from runnerctl.envs.store_files import walk

__all__ = ["sealed"]

# Ours is never compared with its source again (PEP 552): Python would run whatever is there.
BYTECODE = ".pyc"
# Left out of a marker, so that a field which a later version adds changes nothing while it says nothing.
EMPTY: tuple[object, ...] = (None, "", [], {})


def sealed(prefix: Path, manifest: Manifest) -> str:
    """64 hex digits over the marker without them, the target of each link, the content of all bytecode.

    Raises OSError.
    """
    fields = msgspec.to_builtins(manifest)
    told = {name: value for name, value in fields.items() if name != "seal" and value not in EMPTY}
    seal = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for path in sorted(entry.path for entry in walk(prefix)):
        name = os.fsencode(os.path.relpath(path, prefix))
        if os.path.islink(path):
            seal.update(b"link %d %s %s\0" % (len(name), name, os.fsencode(os.readlink(path))))
        elif path.endswith(BYTECODE) and os.path.isfile(path):
            content = hashlib.sha256(Path(path).read_bytes()).digest()
            seal.update(b"file %d %s %s\0" % (len(name), name, content))
    return seal.hexdigest()
