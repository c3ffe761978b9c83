"""One page a check, of `health` and of `doctor`, from their CHECKS."""

from __future__ import annotations

from collections.abc import Iterable

from runnerctl.core import doctor
from runnerctl.core.checks import CHECKS
from runnerctl.core.findings import Check, always
from tests.docs.markup import table

__all__ = ["check_pages"]

PAGE = """\
# {id}

{title}.

{docs}

**Remedy**, where a finding has none of its own: {remedy}.

{table}
A reading that could not be taken makes the finding UNKNOWN, with the reason. [All checks](README.md)
"""
INDEX = """\
# Checks

What `runnerctl health` judges, in the order in which it lists its findings. A check yields findings with one
of four statuses: OK; WARNING, jobs still run and someone should look; CRITICAL, jobs cannot run or fail;
UNKNOWN, it cannot be told from here. The verdict on the host is the worst of them, in the order CRITICAL,
UNKNOWN, WARNING, OK.

"""
DOCTOR = """
## At GitHub

What `runnerctl doctor` judges, from the controller: [how to use it](../../how-to/check-the-github-side.md).

"""


def check_pages() -> dict[str, str]:
    """``checks/<id>.md`` for each check, and an index."""
    found = {f"checks/{check.id}.md": _page(check, _of_a_host(check)) for check in CHECKS}
    found |= {f"checks/{check.id}.md": _page(check, _of_a_fleet(check)) for check in doctor.CHECKS}
    return {**found, "checks/README.md": INDEX + _list(CHECKS) + DOCTOR + _list(doctor.CHECKS)}


def _list(checks: Iterable[Check]) -> str:
    rows = [[f"[{check.id}]({check.id}.md)", check.title] for check in checks]
    return table(["check", "what it asks or states"], rows)


def _page(check: Check, rows: list[list[str]]) -> str:
    texts = {name: getattr(check, name) for name in ("id", "title", "docs", "remedy")}
    return PAGE.format(**texts, table=table(["", ""], rows))


def _of_a_host(check: Check) -> list[list[str]]:
    return [
        ["command", "`runnerctl health`"],
        ["is about", f"each of the snapshot's `{check.over}`" if check.over else "the host as a whole"],
        ["applies", "always" if check.when is always else _scope(check)],
        ["reads", ", ".join(f"`{need.strip('.?')}`" for need in check.needs) or f"`{check.over}`"],
    ]


def _of_a_fleet(check: Check) -> list[list[str]]:
    about = "each repository, organisation or enterprise" if check.over else "the inventory as a whole"
    return [
        ["command", "`runnerctl doctor`"],
        ["is about", about],
        ["reads", "what GitHub answers, and with `-i` the inventory"],
    ]


def _scope(check: Check) -> str:
    """The first line of the docstring of ``when``, which begins with "Whether"."""
    line = (check.when.__doc__ or "").strip().split("\n")[0].rstrip(".")
    return line.replace("Whether", "when", 1)
