"""Looking at an environment on disk."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from runnerctl.envs.verify import verify


def entry(path: str, text: str = "x\n", **more: Any) -> dict[str, Any]:
    data = text.encode()
    made = {"_path": path, "path_type": "hardlink", "size_in_bytes": len(data)}
    return {**made, "sha256": hashlib.sha256(data).hexdigest(), **more}


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    for path, text in (("plain", "x\n"), ("rewritten", "/here\n"), ("made", "#!/here\n")):
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o444)
    (tmp_path / "link").symlink_to("plain")
    (tmp_path / "conda-meta").mkdir()
    here = hashlib.sha256(b"/here\n").hexdigest()
    paths = [
        entry("plain"),
        entry("rewritten", "/placeholder\n", prefix_placeholder="/placeholder", sha256_in_prefix=here),
        {"_path": "made", "path_type": "unix_python_entry_point"},
        {"_path": "link", "path_type": "softlink"},
    ]
    record = {"name": "one", "version": "1", "unknown": 1, "paths_data": {"paths": paths, "paths_version": 1}}
    (tmp_path / "conda-meta/one-1-0.json").write_text(json.dumps(record))
    return tmp_path


def damage(prefix: Path, **options: bool) -> dict[str, str]:
    return {each.path: each.what for each in verify(prefix, **options)}


def test_all_is_well(prefix: Path) -> None:
    assert damage(prefix) == damage(prefix, full=True) == {}


def test_what_a_quick_look_sees(prefix: Path) -> None:
    (prefix / "plain").chmod(0o644)
    (prefix / "made").unlink()
    (prefix / "made").symlink_to("plain")
    (prefix / "link").unlink()
    assert damage(prefix) == {
        "plain": "can be written to",
        "made": "is no regular file",
        "link": "is missing",
    }
    (prefix / "plain").write_text("longer\n")
    assert damage(prefix, published=False)["plain"] == "has 7 bytes, not 2"


def test_what_only_a_full_look_sees(prefix: Path) -> None:
    for name in ("plain", "rewritten"):
        (prefix / name).chmod(0o644)
        (prefix / name).write_text((prefix / name).read_text().upper())
        (prefix / name).chmod(0o444)
    assert damage(prefix) == {}
    assert damage(prefix, full=True) == dict.fromkeys(("plain", "rewritten"), "has another content (sha256)")


@pytest.mark.parametrize("text", ["", "[]", '{"name": 1}', "\0"])
def test_records_that_cannot_be_read(prefix: Path, text: str) -> None:
    (prefix / "conda-meta/two.json").write_text(text)
    assert damage(prefix) == {"conda-meta/two.json": "cannot be read"}


def test_nothing_there(tmp_path: Path) -> None:
    assert damage(tmp_path / "gone") == {"conda-meta": "is missing or empty"}


def test_what_pip_installed(prefix: Path) -> None:
    info = prefix / "lib/python3.12/site-packages/two-1.dist-info"
    info.mkdir(parents=True)
    (info / "INSTALLER").write_text("uv")
    digest = "sha256=c7Gs7h0rX5W0sCN6pkTnvpMHkaZXhdlMMqzCYyz9jEU"
    rows = [f"../two.py,{digest},2", "two-1.dist-info/RECORD,,", "odd,row", f"../gone.py,{digest},2"]
    (info / "RECORD").write_text("\n".join([rows[0].replace("../", ""), *rows[1:]]) + "\n")
    (info.parent / "two.py").write_text("y\n")
    (info.parent / "two.py").chmod(0o444)
    assert damage(prefix) == {"lib/python3.12/gone.py": "is missing"}
    site = "lib/python3.12/site-packages"
    assert damage(prefix, full=True)[f"{site}/two.py"] == "has another content (sha256)"
