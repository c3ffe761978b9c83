"""The exit codes, from the error tree and the verdicts."""

from __future__ import annotations

import runnerctl.errors
from runnerctl.core.health import EXIT_CODES
from runnerctl.errors import RunnerctlError
from tests.docs.markup import cell, table

__all__ = ["exit_code_pages"]

_HOST = "a host did not answer"

HEAD = """\
# Exit codes

A verdict (`runnerctl health`, `fleet`, `doctor`) exits as monitoring plugins do. A failure of the command
itself, a wrong option included, is 3 as well. No form of the output (text, JSON, plugin, summary, page)
changes the code, nor does `health --act`: it is that of the verdict before anything was done. `fleet` exits
with the worst of its hosts, in the order CRITICAL, UNKNOWN, WARNING, OK.

"""
MIDDLE = """
A linter (`runnerctl spec validate`, `ci check`) exits 0 when there is nothing to say and 1 when there are
findings. `ci init --check` and `ci protect --check` exit 1 when something is to be done. `env exec` has the
exit code of the command that it becomes, and `env verify` 65 when something differs.

Every other command exits 0, or with one of these, whose numbers are those of `sysexits.h`; 130 when it was
interrupted. An error is one line on standard error: what failed, on what, and what to do next.

"""
TELLING = """
What a script may want to tell apart:

"""
# Command, meaning of 75, meaning of 69.
APART = (
    ("`drain`", "a job still runs, and the slot stops with it; or the circuit breaker refused", _HOST),
    ("`resume`", "another hold is left", f"{_HOST}, or a runner did not come online"),
    ("`upgrade`", "runners still run a job and keep their release", f"a rollback; or {_HOST}"),
    ("`labels`, `group move`", "a runner is drained and was left out; or somebody undid the change", ""),
    ("`labels sync`", "the same", "GitHub has no record of a runner"),
    ("`keepalive --fail-under-days`", "a record may be gone sooner, or is gone", ""),
    (
        "`env ensure`, `env exec`",
        "the disk or the owner's quota has no room, or the service does not take more now",
        "a channel, the service or the driver does not answer",
    ),
    ("every command", "a rate limit lasts longer than `--max-wait`", "GitHub does not answer"),
)
END = """
Which command belongs to which group: [Commands](cli.md).
"""


def exit_code_pages() -> dict[str, str]:
    """``exit-codes.md``."""
    verdicts = [[str(code), status] for status, code in EXIT_CODES.items()]
    errors = [[str(error.exit_code), error.__name__, cell(error.__doc__ or "")] for error in _errors()]
    parts = [
        HEAD,
        table(["code", "verdict"], verdicts),
        MIDDLE,
        table(["code", "error", "meaning"], errors),
        TELLING,
        table(["command", "75", "69"], APART),
        END,
    ]
    return {"exit-codes.md": "".join(parts)}


def _errors() -> list[type[RunnerctlError]]:
    named = [getattr(runnerctl.errors, name) for name in runnerctl.errors.__all__]
    return sorted(
        (error for error in named if error is not RunnerctlError), key=lambda error: error.exit_code
    )
