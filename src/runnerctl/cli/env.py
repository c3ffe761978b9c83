"""``runnerctl env``: the group of commands about conda environments; each is loaded when called."""

from __future__ import annotations

from collections.abc import Mapping

from runnerctl.cli.lazy import Entry, Group, new_app

__all__ = ["app"]

TABLE: Mapping[str, Entry] = {
    "ensure": Entry("runnerctl.cli.env_ensure", "Make sure that a file's environment is there."),
    "exec": Entry("runnerctl.cli.env_exec", "Run a command in a file's environment."),
    "export-activation": Entry("runnerctl.cli.env_export", "Activate an environment for later steps."),
    "list": Entry("runnerctl.cli.env_list", "List the environments of the store."),
    "lock": Entry("runnerctl.cli.env_lock", "Write down exactly what a file resolves to."),
    "verify": Entry("runnerctl.cli.env_verify", "Compare environments with what was installed."),
    "gc": Entry("runnerctl.cli.env_gc", "Remove what was not used for long."),
    "serve": Entry("runnerctl.cli.env_serve", "Build environments for this host's jobs; run by its unit."),
}

HELP = "Get conda environments from this host's store, in no time."
EXAMPLE = """
runnerctl env ensure environment.yml --github
runnerctl env exec -- pytest
"""


class Env(Group):
    """The commands of ``runnerctl env``."""

    table = TABLE


app = new_app(cls=Env, name="env", help=HELP, epilog=EXAMPLE)


@app.callback()
def env() -> None:
    """Get conda environments from this host's store, in no time."""
