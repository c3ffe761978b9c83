"""The files through which a step talks to its job: ``GITHUB_ENV``, ``GITHUB_PATH`` and their kin."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

_NAMES = {
    "GITHUB_ENV": "set_env",
    "GITHUB_PATH": "add_path",
    "GITHUB_OUTPUT": "set_output",
    "GITHUB_STATE": "save_state",
    "GITHUB_STEP_SUMMARY": "step_summary",
}


class CommandFiles:
    """A fresh, empty set of files for one step."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        suffix = uuid.uuid4()
        self.paths = {name: directory / f"{stem}_{suffix}" for name, stem in _NAMES.items()}
        for path in self.paths.values():
            path.touch()

    def environment(self) -> dict[str, str]:
        """The variables that name the files."""
        return {name: str(path) for name, path in self.paths.items()}

    def read_env(self) -> dict[str, str]:
        """What the step wrote to ``GITHUB_ENV``. Raises ValueError for a line that is no assignment."""
        pairs = parse_pairs(self._text("GITHUB_ENV"))
        return {name: value for name, value in pairs.items() if name.upper() != "NODE_OPTIONS"}

    def read_output(self) -> dict[str, str]:
        """What the step wrote to ``GITHUB_OUTPUT``. Raises ValueError for a line that is no assignment."""
        return parse_pairs(self._text("GITHUB_OUTPUT"))

    def read_paths(self) -> list[str]:
        """What the step put in front of PATH, the latest first."""
        return [line for line in reversed(self._text("GITHUB_PATH").splitlines()) if line]

    def read_summary(self) -> str:
        """The step's summary, Markdown."""
        return self._text("GITHUB_STEP_SUMMARY")

    def _text(self, name: str) -> str:
        try:
            return self.paths[name].read_text(encoding="utf-8-sig", errors="replace")
        except OSError:
            return ""


def parse_pairs(text: str) -> dict[str, str]:
    """Read ``NAME=VALUE`` lines and ``NAME<<MARK`` blocks."""
    pairs: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        if not line:
            continue
        equals, block = line.find("="), line.find("<<")
        if block > 0 and (equals < 0 or block < equals):
            name, mark = line[:block], line[block + 2 :]
            pairs[name] = "\n".join(_block(lines, mark))
        elif equals > 0:
            pairs[line[:equals]] = line[equals + 1 :]
        else:
            raise ValueError(f"Invalid format '{line}'")
    return pairs


def _block(lines: Iterator[str], mark: str) -> list[str]:
    block: list[str] = []
    for line in lines:  # the caller's iterator: what is read here is read
        if line == mark:
            return block
        block.append(line)
    raise ValueError(f"Invalid value. Matching delimiter not found '{mark}'")
