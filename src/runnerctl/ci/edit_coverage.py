"""The settings with which coverage of two machines and of child processes can be counted. Pure.

Facts: coverage.readthedocs.io, "Configuration reference" and "Measuring subprocesses". Child processes write
files of their own (``parallel``), ``multiprocessing`` starts coverage in its children, ``sigterm`` saves what
a worker measured that is ended by a signal, ``relative_files`` lets data of different checkouts meet.
"""

from __future__ import annotations

from collections.abc import Sequence

from runnerctl.ci.edit_config import Config, is_true

__all__ = ["DEFAULT_THRESHOLD", "edit_coverage"]

DEFAULT_THRESHOLD = 80  # percent
CONCURRENCY = ("multiprocessing", "thread")


def edit_coverage(
    config: Config,
    *,
    packages: Sequence[str] | None,
    found: Sequence[str],
    threshold: str | None,
    workers: bool,
    force: bool,
) -> list[str]:
    """Set what is missing. What the user set otherwise stays, unless ``force``; each such is told of.

    ``packages`` and ``threshold`` were said, and replace what is there; ``found`` is what to measure else.
    ``workers``: tests run in pytest-xdist's workers, which are processes of another kind than
    multiprocessing's; coverage 7.10 and later follows those (``patch``).
    """
    notes = _switch(config, "parallel", force)
    have = config.items("run", "concurrency")
    if "multiprocessing" not in have:
        config.extend("run", "concurrency", ["multiprocessing"] if have else list(CONCURRENCY))
    notes += _switch(config, "sigterm", force) + _switch(config, "relative_files", force)
    if workers and "subprocess" not in config.items("run", "patch"):
        config.extend("run", "patch", ["subprocess"])
    _source(config, packages, found)
    if threshold is not None or config.text("report", "fail_under") is None:
        number = float(DEFAULT_THRESHOLD if threshold is None else threshold)
        now = config.text("report", "fail_under")
        if now is None or not _equal(now, number):
            config.put("report", "fail_under", int(number) if number.is_integer() else number)
    return notes


def _equal(text: str, number: float) -> bool:
    try:
        return float(text) == number
    except ValueError:
        return False


def _switch(config: Config, key: str, force: bool) -> list[str]:
    now = config.text("run", key)
    if is_true(now):
        return []
    if now is None or force:
        config.put("run", key, True)
        return []
    return [f"coverage's {key} = {now} is kept, but the jobs' data need it on: --force sets it"]


def _source(config: Config, packages: Sequence[str] | None, found: Sequence[str]) -> None:
    if packages is not None:
        if config.items("run", "source") != list(packages):
            config.put("run", "source", list(packages))
    elif not any(config.items("run", key) for key in ("source", "source_pkgs", "source_dirs", "include")):
        config.put("run", "source", list(found))
