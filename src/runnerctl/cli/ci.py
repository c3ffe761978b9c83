"""``runnerctl ci``: the group of commands about a repository's workflows; each is loaded when called."""

from __future__ import annotations

from collections.abc import Mapping

from runnerctl.cli.lazy import Entry, Group, new_app

__all__ = ["app"]

TABLE: Mapping[str, Entry] = {
    "init": Entry("runnerctl.cli.ci_init", "Write workflows that test on your GPU runners."),
    "check": Entry("runnerctl.cli.ci_check", "Find what makes workflows red, slow or unsafe."),
    "protect": Entry("runnerctl.cli.ci_protect", "Require the jobs before anything is merged."),
}


class Ci(Group):
    """The commands of ``runnerctl ci``."""

    table = TABLE


app = new_app(
    cls=Ci,
    name="ci",
    help="Set up and check a repository's workflows for your GPU runners.",
    epilog="runnerctl ci init --check\nrunnerctl ci check --fix\nGH_TOKEN=... runnerctl ci protect",
)


@app.callback()
def ci() -> None:
    """Set up and check a repository's workflows for your GPU runners."""
