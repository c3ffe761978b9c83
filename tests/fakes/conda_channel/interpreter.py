"""The interpreter that runs the tests as a conda package: relocatable, with its libraries."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.fakes.conda_channel.archive import PLACEHOLDER, CondaPackage, Link
from tests.fakes.conda_channel.tools import patchelf, strip
from tests.hosts.machine import call

__all__ = ["PYTHON", "VERSION", "python_package"]

VERSION = platform.python_version()
PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
LEFT_OUT = {"test", "tests", "__pycache__", "site-packages", "dist-packages", "idlelib", "turtledemo"}
LEFT_OUT |= {"tkinter", "ensurepip", "lib2to3", "pydoc_data"}
WITHOUT = ("_tkinter", "_test", "_ctypes_test", "xxlimited", "nis.", "ossaudiodev")  # extension modules
OF_EVERY_HOST = ("libc.", "libm.", "libdl.", "libpthread.", "librt.", "libutil.", "libresolv.", "libnsl.")
COMMAND_SECONDS = 300


def python_package(staging: Path) -> CondaPackage:
    """Put the interpreter together in the empty folder ``staging``, and say what the package consists of."""
    _standard_library(staging / "lib" / PYTHON)
    program = staging / "bin" / PYTHON
    program.parent.mkdir(parents=True)
    shutil.copy2(os.path.realpath(getattr(sys, "_base_executable", sys.executable)), program)
    modules = sorted((staging / "lib" / PYTHON / "lib-dynload").glob("*.so"))
    libraries = [_library(source, staging / "lib") for source in _needed([program, *modules])]
    strip([program, *modules, *libraries])
    # an old-style RPATH of the program counts for everything it loads, so one placeholder is enough
    for file in (*modules, *libraries):
        patchelf(file, "--remove-rpath")
    patchelf(program, "--force-rpath", "--set-rpath", f"{PLACEHOLDER}/lib")
    files: dict[str, str | bytes | Path] = {
        str(path.relative_to(staging)): path for path in staging.rglob("*") if path.is_file()
    }
    files |= {"bin/python": Link(PYTHON), "bin/python3": Link(PYTHON)}
    return CondaPackage("python", VERSION, build="h0_cpython", depends=["__glibc >=2.17"], files=files)


def _standard_library(place: Path) -> None:
    def left_out(folder: str, names: list[str]) -> set[str]:
        away = {name for name in names if name in LEFT_OUT or name.startswith("config-")}
        if Path(folder).name == "lib-dynload":
            away |= {name for name in names if name.startswith(WITHOUT)}
        return away

    shutil.copytree(sysconfig.get_path("stdlib"), place, ignore=left_out)
    settings = sorted(place.glob("_sysconfigdata*.py"))
    for file in settings:
        text = file.read_text(encoding="utf-8").replace(f"'{sys.base_prefix}", f"'{PLACEHOLDER}")
        file.write_text(text, encoding="utf-8")
    (place / "site-packages").mkdir()
    (place / "site-packages" / "README.txt").write_text("Packages go here.\n", encoding="utf-8")
    # as conda's own package: compiled; by hash, for nobody keeps times of files
    command = [sys.executable, "-m", "compileall", "-q", "-s", str(place), "--invalidation-mode"]
    call([*command, "unchecked-hash", str(place)], seconds=COMMAND_SECONDS)
    for file in settings:  # its text is changed on installation, and a compiled one breaks by that
        for compiled in place.glob(f"__pycache__/{file.stem}.*"):
            compiled.unlink()


def _needed(files: list[Path]) -> list[Path]:
    """Where this machine has the shared libraries that some binaries need, without the C library's own."""
    found: dict[str, Path] = {}
    for file in files:
        run = subprocess.run(
            ["ldd", str(file)], check=False, capture_output=True, text=True, timeout=COMMAND_SECONDS
        )
        for line in run.stdout.splitlines():
            name, _, where = line.strip().partition(" => ")
            if where.startswith("/") and not name.startswith(OF_EVERY_HOST):
                found[name] = Path(where.split(" (")[0])
    return [found[name] for name in sorted(found)]


def _library(source: Path, folder: Path) -> Path:
    place = folder / source.name
    shutil.copyfile(os.path.realpath(source), place)
    place.chmod(0o755)
    return place
