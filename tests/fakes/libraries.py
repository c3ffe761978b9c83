"""Libraries of the driver, played by C files: compiled on first use, driven by a scenario file."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

__all__ = ["compiled", "seen_through"]

_FLAGS = ("-shared", "-fPIC", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden")


def compiled(source: Path, soname: str, directory: Path) -> Path:
    """Compile ``source`` into ``directory`` and return the library's path; a current one is left as it is.

    Raises RuntimeError with the compiler's words when it cannot be built.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise RuntimeError("no C compiler: apt-get install gcc libc6-dev")
    directory.mkdir(parents=True, exist_ok=True)
    library = directory / soname
    if library.exists() and library.stat().st_mtime >= source.stat().st_mtime:
        return library
    # Built aside and renamed: two test workers may build at the same time.
    aside = directory / f"{soname}.{os.getpid()}"
    command = [compiler, *_FLAGS, f"-Wl,-soname,{soname}", "-o", str(aside), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    aside.replace(library)
    return library


def seen_through(
    library: Path, base: Mapping[str, str] | None = None, **scenario: str | Path
) -> dict[str, str]:
    """The environment of a process that shall find ``library``; ``scenario`` is the variable it reads."""
    environ = dict(os.environ if base is None else base)
    path = environ.get("LD_LIBRARY_PATH")
    environ["LD_LIBRARY_PATH"] = f"{library.parent}:{path}" if path else str(library.parent)
    return environ | {name: str(value) for name, value in scenario.items()}
