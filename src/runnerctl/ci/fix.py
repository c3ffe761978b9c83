"""Mend what can be mended safely: the smallest change of a file, comments and layout kept."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from runnerctl.ci.fix_settings import with_settings
from runnerctl.ci.rules import INVALID, Edit, Hit
from runnerctl.ci.workflow_read import read_text
from runnerctl.errors import DataError, UnavailableError
from runnerctl.replace import replace_file

__all__ = ["Mended", "diff", "mend", "write"]

MAX_ROUNDS = 10  # each round mends what the one before uncovered, or what stood on the same line
_KEPT_BREAK = re.compile(r"(?<=\n)")


class Mended(msgspec.Struct, frozen=True):
    """The files before and after, and what was mended."""

    before: Mapping[str, str]
    after: Mapping[str, str]
    hits: tuple[Hit, ...]


def mend(root: Path, judge: Callable[[Mapping[str, str]], Iterable[Hit]]) -> Mended:
    """What the files would be; nothing is written. ``judge`` gives the hits with some texts replaced."""
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    done: list[Hit] = []
    hits = list(judge(after))
    for _ in range(MAX_ROUNDS):
        trial, mended = dict(after), []
        for file in sorted({hit.file for hit in hits if hit.fixable}):
            text = after[file] if file in after else read_text(root / file)
            if text is None:
                continue
            before.setdefault(file, text)
            trial[file], ours = _mended(file, text, [hit for hit in hits if hit.file == file and hit.fixable])
            mended += ours
        if trial == after or not mended:
            break
        judged = list(judge(trial))
        broken = _broken(judged) - _broken(hits)
        if broken:  # never hand over a file that cannot be read any more
            where = ", ".join(sorted(broken))
            raise DataError("the mended file could not be read again; nothing was written", where=where)
        after, hits = trial, judged
        done += mended
    changed = {file: text for file, text in after.items() if before.get(file) != text}
    return Mended({file: before[file] for file in changed}, changed, tuple(done))


def _broken(hits: Iterable[Hit]) -> set[str]:
    return {hit.file for hit in hits if hit.rule == INVALID}


def _mended(file: str, text: str, hits: list[Hit]) -> tuple[str, list[Hit]]:
    settings = [hit for hit in hits if hit.settings]
    if settings:
        wanted = [value for hit in settings for value in hit.settings]
        return with_settings(file, text, wanted), settings
    chosen: list[Edit] = []
    done = []
    for hit in hits:
        if all(edit in chosen or not _meets(edit, chosen) for edit in hit.edits):
            chosen += [edit for edit in hit.edits if edit not in chosen]
            done.append(hit)
    return _edited(text, chosen), done


def _meets(edit: Edit, others: Iterable[Edit]) -> bool:
    """Whether an edit touches lines that another one touches, too."""
    end = edit.line + max(edit.remove, 1)
    return any(edit.line < other.line + max(other.remove, 1) and other.line < end for other in others)


def _edited(text: str, edits: Iterable[Edit]) -> str:
    lines = _KEPT_BREAK.split(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    for edit in sorted(edits, key=lambda each: each.line, reverse=True):
        at = edit.line - 1
        if 0 < at <= len(lines) and not lines[at - 1].endswith("\n"):
            lines[at - 1] += newline
        lines[at : at + edit.remove] = [line + newline for line in edit.insert]
    return "".join(lines)


def diff(mended: Mended) -> str:
    """All changes as a unified diff."""
    parts: list[str] = []
    for file in sorted(mended.after):
        old, new = (each[file].splitlines() for each in (mended.before, mended.after))
        parts += difflib.unified_diff(old, new, f"a/{file}", f"b/{file}", lineterm="")
    return "\n".join(parts)


def write(root: Path, mended: Mended) -> None:
    """Write the files, each whole or not at all. Raises UnavailableError; DataError for one changed since."""
    for file, text in mended.after.items():
        path = (root / file).resolve()
        if not path.is_relative_to(root.resolve()):
            raise DataError("leads out of the repository", where=file, remedy="replace the link by the file")
        if read_text(path) != mended.before[file]:
            raise DataError("was changed in the meantime", where=file, remedy="run it again")
        try:
            replace_file(path, text.encode(), mode=path.stat().st_mode & 0o7777)
        except OSError as error:
            raise UnavailableError(f"cannot be written: {error.strerror}", where=str(path)) from None
