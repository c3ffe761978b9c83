"""A repository's files: read within bounds, and written all or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from runnerctl.errors import (
    AccessError,
    ConfigError,
    DataError,
    RunnerctlError,
    TryAgainError,
    UnavailableError,
    UsageError,
)

__all__ = ["Repository"]

MAX_BYTES = 1 << 20  # of a file that is read; GitHub refuses larger workflows, too
MAX_SCANNED = 5000  # folders, and Python files, that are looked at
_TEMPORARY = ".runnerctl-new"  # the end of a name that holds a file until it is whole
_SKIPPED = {"node_modules", "build", "dist", "site-packages", "__pycache__", "venv"}


class Repository:
    """The directory ``root``. Raises UsageError when it is none."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        if not self.root.is_dir():
            raise UsageError("is no directory", where=str(root), remedy="give the path of a repository")

    def git_root(self) -> Path | None:
        """The repository that the directory belongs to; None when it belongs to none."""
        return next((each for each in (self.root, *self.root.parents) if (each / ".git").exists()), None)

    def default_branch(self) -> str | None:
        """The default branch of ``origin``, as far as the clone knows it; else ``main`` or ``master``.

        Whichever is there, or will be with the first commit; None when nothing tells.
        """
        if (git := self._git()) is None:
            return None
        head = _reference(git / "refs/remotes/origin/HEAD", "refs/remotes/origin/")
        if head:
            return head
        packed = _first_bytes(git / "packed-refs").split()
        for name in ("main", "master"):
            places = (f"refs/remotes/origin/{name}", f"refs/heads/{name}")
            if any((git / place).exists() or place in packed for place in places):
                return name
        first = _reference(git / "HEAD", "refs/heads/")
        return first if first in ("main", "master") else None

    def _git(self) -> Path | None:
        """Where git keeps the branches; a worktree's ``.git`` is a file that names a folder elsewhere."""
        git = self.root / ".git"
        if git.is_dir():
            return git
        link = _first_bytes(git).strip().removeprefix("gitdir:").strip()
        if not link:
            return None
        own = self.root / link
        return own / (_first_bytes(own / "commondir").strip() or ".")

    def read(self, path: str) -> str | None:
        """A file's text; None when it is not there.

        Raises ConfigError for one that leads out of the repository, DataError for one that is no text.
        """
        data = self._bytes(path)
        if data is None:
            return None
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError("is not UTF-8", where=path, remedy="save it as UTF-8") from None
        if text.startswith("\ufeff") or "\0" in text:
            raise DataError(
                "has a byte order mark or zero bytes",
                where=path,
                remedy="save it as plain UTF-8",
            )
        return text

    def text(self, path: str) -> str | None:
        """As `read`, with every line's end as `\\n`."""
        text = self.read(path)
        return text if text is None else text.replace("\r\n", "\n")

    def glance(self, path: str) -> str:
        """A file's text, for a look into it; empty for one that cannot be read, whatever the reason."""
        try:
            return self.text(path) or ""
        except RunnerctlError:
            return ""

    def is_dir(self, path: str) -> bool:
        """Whether a directory is there, and within the repository."""
        return self.target(path).is_dir()

    def exists(self, path: str) -> bool:
        """Whether something is there, and within the repository."""
        return self.target(path).exists()

    def elsewhere(self, names: Sequence[str]) -> str | None:
        """The first file of such a name, the top's before those of folders."""
        for count, (folder, inner, files) in enumerate(os.walk(self.root)):
            here = Path(folder)
            inner[:] = sorted(each for each in inner if not self._foreign(here / each))
            if found := next((name for name in names if name in files), None):
                return str((here / found).relative_to(self.root))
            if count >= MAX_SCANNED:
                break
        return None

    def python_files(self) -> Iterator[str]:
        """Paths of Python files, in order; hidden, built and foreign directories are left out."""
        count = 0
        for folders, (folder, names, files) in enumerate(os.walk(self.root)):
            inside = Path(folder)
            names[:] = sorted(each for each in names if not self._foreign(inside / each))
            for name in sorted(files):
                if name.endswith(".py"):
                    yield str((inside / name).relative_to(self.root))
                    count += 1
            if count >= MAX_SCANNED or folders >= MAX_SCANNED:
                return

    def _foreign(self, folder: Path) -> bool:
        name = folder.name
        return (
            name.startswith(".")
            or name in _SKIPPED
            or (folder / "conda-meta").exists()
            or (folder / "pyvenv.cfg").exists()
        )

    def target(self, path: str) -> Path:
        """The real place of a file. Raises ConfigError for a link that leads out of the repository."""
        link = self.root / path
        try:
            real = link.resolve()
            dangling = link.is_symlink() and not real.exists()
        except (OSError, RuntimeError):
            real, dangling = link, True
        if dangling or not real.is_relative_to(self.root) or ".git" in real.relative_to(self.root).parts:
            remedy = "replace the link by a file of the repository"
            raise ConfigError(
                "is a link that leads out of the repository, or nowhere", where=path, remedy=remedy
            )
        return real

    def _bytes(self, path: str) -> bytes | None:
        real = self.target(path)
        try:
            mode = real.stat().st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError("is no file", where=path, remedy="move it away")
            with open(real, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise ConfigError("stands below a file", where=path, remedy="move that file away") from None
        except OSError as error:
            raise _refused(path, error) from None
        if len(data) > MAX_BYTES:
            raise DataError(
                f"is larger than {MAX_BYTES} bytes",
                where=path,
                remedy="make it smaller: GitHub reads no more",
            )
        return data

    def write(self, files: Sequence[tuple[str, str | None, str]]) -> None:
        """Write (path, text as it was read, new text) of each file: all of them, or none.

        Raises TryAgainError when one changed since it was read; AccessError, UnavailableError or ConfigError
        when one cannot be written, with every other one as it was.
        """
        with contextlib.ExitStack() as undo:
            staged = [
                (path, before, self._staged(path, before, after, undo)) for path, before, after in files
            ]
            with contextlib.ExitStack() as back:
                for path, before, temporary in staged:
                    _replace(path, temporary, self.target(path))
                    back.callback(self._restore, path, before)
                back.pop_all()
                undo.pop_all()

    def sweep(self, paths: Sequence[str]) -> None:
        """Take away what a run left beside these files that was killed while it wrote."""
        for path in paths:
            real = self.target(path)
            for each in real.parent.glob(f".{glob.escape(real.name)}.*{_TEMPORARY}"):
                with contextlib.suppress(OSError):
                    each.unlink()

    def _staged(self, path: str, before: str | None, after: str, undo: contextlib.ExitStack) -> Path:
        """The new content beside its place; what was made for it goes when ``undo`` ends."""
        if self.read(path) != before:
            raise TryAgainError("changed while it was read", where=path, remedy="run the command again")
        real = self.target(path)
        try:
            for folder in reversed([each for each in real.parents if not each.exists()]):
                folder.mkdir()
                undo.callback(_remove_folder, folder)
            _refuse_read_only(path, real)
            temporary = real.with_name(f".{real.name}.{secrets.token_hex(6)}{_TEMPORARY}")
            undo.callback(temporary.unlink, missing_ok=True)
            _fill(temporary, after.encode(), real)
        except OSError as error:
            raise _refused(path, error) from None
        return temporary

    def _restore(self, path: str, before: str | None) -> None:
        real = self.target(path)
        with contextlib.suppress(OSError):
            if before is None:
                real.unlink()
            else:
                real.write_bytes(before.encode())


def _first_bytes(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError), open(path, encoding="utf-8") as file:
        return file.read(MAX_BYTES)
    return ""


def _reference(path: Path, beginning: str) -> str | None:
    """The branch that a symbolic reference of git leads to, when it begins so."""
    text = _first_bytes(path).strip()
    found = text.removeprefix("ref: ").removeprefix(beginning)
    return found if text == f"ref: {beginning}{found}" and found else None


def _fill(temporary: Path, data: bytes, like: Path) -> None:
    """Write and sync; rights and owner are those of what it replaces, else the folder's owner."""
    with open(temporary, "xb") as file:
        file.write(data)
        file.flush()
        there = like.stat() if like.exists() else None
        if there is not None:
            os.fchmod(file.fileno(), stat.S_IMODE(there.st_mode))
        owner = there or like.parent.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        os.fsync(file.fileno())


def _refuse_read_only(path: str, real: Path) -> None:
    if real.exists() and not real.stat().st_mode & 0o222:
        remedy = f"chmod u+w {path}, or leave it alone with --keep {path}"
        raise AccessError("is read-only; nothing was changed", where=path, remedy=remedy)


def _replace(path: str, temporary: Path, real: Path) -> None:
    try:
        os.replace(temporary, real)
    except OSError as error:
        raise _refused(path, error) from None


def _remove_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _refused(path: str, error: OSError) -> RunnerctlError:
    reason = error.strerror or str(error)
    kind = AccessError if isinstance(error, PermissionError) else UnavailableError
    return kind(f"cannot be read or written: {reason}; nothing was changed", where=path)
