"""A stand-in for CUDA's driver library: C, built on first use, driven by a scenario file."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

__all__ = ["SONAME", "build", "environment"]

SONAME = "libcuda.so.1"
_SOURCE = Path(__file__).with_name("cuda.c")
_FLAGS = ("-shared", "-fPIC", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden")


def build(directory: Path) -> Path:
    """Compile the library into ``directory`` and return its path; a current one is left as it is.

    Raises RuntimeError with the compiler's words when it cannot be built.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise RuntimeError("no C compiler: apt-get install gcc libc6-dev")
    directory.mkdir(parents=True, exist_ok=True)
    library = directory / SONAME
    if library.exists() and library.stat().st_mtime >= _SOURCE.stat().st_mtime:
        return library
    # Built aside and renamed: two test workers may build at the same time.
    aside = directory / f"{SONAME}.{os.getpid()}"
    command = [compiler, *_FLAGS, f"-Wl,-soname,{SONAME}", "-o", str(aside), str(_SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    aside.replace(library)
    return library


def environment(library: Path, scenario: Path, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process that shall see ``scenario`` through the library."""
    environ = dict(os.environ if base is None else base)
    path = environ.get("LD_LIBRARY_PATH")
    environ["LD_LIBRARY_PATH"] = f"{library.parent}:{path}" if path else str(library.parent)
    environ["CUDA_SCENARIO"] = str(scenario)
    return environ
