"""Bytecode of what has none, while somebody may still write it.

The environment's own Python compiles, confined (`sandbox`), into a folder of its own; what is expected there
is copied into the environment by our own code. So no code of a package writes to an environment, and no file
that it holds open becomes part of one.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from runnerctl.envs import sandbox
from runnerctl.envs.model import Event
from runnerctl.envs.ports import Installed, Tell
from runnerctl.envs.store_files import walk
from runnerctl.errors import RunnerctlError, UnavailableError

__all__ = ["COMPILE_SECONDS", "compile_missing", "missing_bytecode"]

COMPILE_SECONDS = 1800.0
COMPILERS = 4  # at most; a host's other cores belong to jobs
MAX_BYTES = 64 << 20  # of one module's bytecode
NOT_COMPILED = "bytecode: not compiled, as this host's kernel cannot confine the compiler (Landlock)"


def missing_bytecode(prefix: Path) -> Iterator[str]:
    """Every module below ``lib/python*`` without bytecode: where nobody may write it never gets any."""
    for library in sorted((prefix / "lib").glob("python*")):
        modules, compiled = [], set()
        for entry in walk(library):
            folder, _, name = entry.path.rpartition("/")
            if name.endswith(".py"):
                modules.append(entry.path)
            elif name.endswith(".pyc") and folder.endswith("/__pycache__"):
                compiled.add(f"{folder.removesuffix('/__pycache__')}/{name.partition('.')[0]}.py")
        yield from (path for path in modules if path not in compiled)


def compile_missing(
    prefix: Path,
    installed: Installed,
    tell: Tell,
    *,
    anyway: bool = False,
    seconds: float = COMPILE_SECONDS,
) -> tuple[str, ...]:
    """Compile what has no bytecode, by the environment's own Python; what is to be known of it.

    What is not Python 3 is passed over. ``anyway``: run it where the kernel cannot confine it, too. Raises
    UnavailableError after ``seconds``.
    """
    version = re.match(r"(\d+)\.(\d+)", installed.python_version or "")
    missing = [path for path in missing_bytecode(prefix) if "\n" not in path] if installed.python else []
    if not missing or installed.python is None or version is None:
        return ()
    if not anyway and not sandbox.is_available():
        return (NOT_COMPILED,)
    tell(Event("compile", "bytecode", 0, len(missing)))
    tag = f"cpython-{version[1]}{version[2]}"
    workers = max(1, min(COMPILERS, os.cpu_count() or 1, len(missing) // 50 + 1))
    work = _Work(prefix, prefix / installed.python, tag, anyway, time.monotonic() + seconds)
    work.all([missing[number::workers] for number in range(workers)])
    tell(Event("compile", "bytecode", len(missing), len(missing)))
    return ()


class _Work:
    """Several compilers, each with its share of the modules."""

    def __init__(self, prefix: Path, python: Path, tag: str, anyway: bool, until: float) -> None:
        self.prefix, self.python, self.tag, self.anyway, self.until = prefix, python, tag, anyway, until
        self.errors: list[BaseException] = []

    def all(self, shares: Sequence[Sequence[str]]) -> None:
        """Compile every share at once. Raises UnavailableError."""
        threads = [threading.Thread(target=self._caught, args=(share,), daemon=True) for share in shares]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def _caught(self, share: Sequence[str]) -> None:
        try:
            self._share(share)
        except (RunnerctlError, OSError) as error:
            self.errors.append(error)

    def _share(self, share: Sequence[str]) -> None:
        """``unchecked-hash``: the sources never change, and a date must not decide (PEP 552)."""
        with sandbox.scratch("compile") as folder:
            listed, made = folder / "modules.list", folder / "made"
            listed.write_text("\n".join(share) + "\n", encoding="utf-8", errors="surrogateescape")
            made.mkdir()
            argv = [str(self.python), "-I", "-S", "-X", f"pycache_prefix={made}", "-m", "compileall"]
            argv += ["-q", "-q", "--invalidation-mode", "unchecked-hash", "-i", str(listed)]
            rules = sandbox.Rules(write=(made,), read=(self.prefix, folder), anyway=self.anyway)
            left = max(1.0, self.until - time.monotonic())
            ended = sandbox.run(rules, argv, environment=sandbox.PLAIN, folder=made, seconds=left)
            if ended.code is None:
                what = "compiling the environment's modules took too long"
                raise UnavailableError(what, where=argv[0], remedy="see what else runs on this host")
            for module in share:  # the exit code says only that some file is no Python 3
                self._take(Path(module), made)

    def _take(self, module: Path, made: Path) -> None:
        """Copy one module's bytecode: a plain file of that name, to where there is none."""
        name = f"{module.stem}.{self.tag}.pyc"
        folder = made.joinpath(*module.parent.parts[1:])
        if os.path.realpath(folder) != str(folder):
            return
        text = sandbox.read_answer(folder / name, limit=MAX_BYTES)
        if text is None:
            return
        target = module.parent / "__pycache__"
        with contextlib.suppress(FileExistsError):
            target.mkdir(mode=0o755)
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            _write(target, name, text)


def _write(folder: Path, name: str, text: bytes) -> None:
    """Make a new file in a folder that is none's link. Raises OSError."""
    where = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o644, dir_fd=where), "wb") as file:
            file.write(text)
    finally:
        os.close(where)
