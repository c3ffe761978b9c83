"""Archives of channels that are directories: rattler compares with the index only what it fetched."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from runnerctl.envs._engine_errors import install_error, wrong_hash

if TYPE_CHECKING:
    from rattler import RepoDataRecord

__all__ = ["check_local"]


def check_local(records: Sequence[RepoDataRecord], cache: Path) -> None:
    """Compare archives of ``file://`` channels with their hashes: rattler does so for fetched ones."""
    for record in records:
        parts = urlsplit(record.url)
        stem = record.file_name.removesuffix(".conda").removesuffix(".tar.bz2")
        if parts.scheme != "file" or not record.sha256 or (cache / stem).exists():
            continue
        try:
            with open(unquote(parts.path), "rb") as file:
                found = hashlib.sha256()
                while piece := file.read(1 << 20):
                    found.update(piece)
        except OSError as error:
            text = f"failed to fetch {record.file_name} Caused by: {error.strerror}"
            raise install_error(text) from None
        if found.digest() != record.sha256:
            raise wrong_hash(record.file_name)
