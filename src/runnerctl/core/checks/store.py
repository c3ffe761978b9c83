"""The store of environments: without it jobs still run, each with an environment of its own making."""

from __future__ import annotations

from collections.abc import Iterable

from runnerctl.core.findings import Check, Verdict, ok, warning
from runnerctl.core.snapshot import Snapshot
from runnerctl.core.spec import HostSpec
from runnerctl.core.store_readings import StoreState, has_store

__all__ = ["CONDA_STORE"]


def _judge(store: StoreState, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    data = {"service": store.service, "socket": store.socket}
    if store.socket != "active":
        yield warning(f"nobody listens for jobs that want one: its socket is {store.socket}", **data)
    elif store.service == "failed":
        yield warning("its service has failed", **data)
    else:
        yield ok("it listens" if store.service == "inactive" else "it runs", **data)


def _matters(snapshot: Snapshot) -> bool:
    """Whether the host has slots, and a store of environments (`conda_store`)."""
    return snapshot.env_store is not None and has_store(snapshot.host_spec)


CONDA_STORE = Check(
    id="conda.store",
    title="The store of conda environments is there",
    docs=(
        "Jobs get their conda environments from the host's store (runnerctl-env.socket and its service). "
        "Where it does not answer, each job makes its environment itself, which takes minutes, or fails. "
        "Looks at the two units. Not looked at where conda_store is false, or where there is no slot."
    ),
    remedy=(
        "look at `journalctl -u runnerctl-env.service`, and start it: "
        "`systemctl restart runnerctl-env.socket`"
    ),
    judge=_judge,
    needs=("env_store",),
    when=_matters,
)
