"""What a host said of its GPUs and driver, handed from preflight to the role."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import plain

from runnerctl.core.driver_structs import DriverFacts
from runnerctl.core.sections import NvidiaDriver

__all__ = ["driver_fact", "driver_facts", "driver_query", "recall_driver"]

FACT = "__nvidia_driver_facts"
FIELDS = ("os_id", "os_version", "machine", "gpus")


def driver_query(spec: NvidiaDriver) -> str:
    """What preflight asks a host about its driver, besides its GPUs: nothing where others manage it."""
    if not spec.manage:
        return "never"
    return "always" if spec.device_ids else "gpus"


def driver_facts(report: Mapping[str, Any]) -> DriverFacts:
    """The facts in a report of module ``preflight``."""
    known = plain(report)
    given = {name: known[name] for name in FIELDS if name != "gpus"}
    return msgspec.convert({**known["gpus"], **given}, DriverFacts)


def driver_fact(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report as a fact of this run of ansible-playbook, whose workers all have one parent."""
    return {FACT: {**{name: report[name] for name in FIELDS}, "run": os.getppid()}}


def recall_driver(variables: Mapping[str, Any]) -> DriverFacts | None:
    """What preflight learnt in this run; None when the role is used without it, or by a later run."""
    known = plain(variables.get("ansible_facts", {}).get(FACT) or {})
    return driver_facts(known) if known.pop("run", None) == os.getppid() else None
