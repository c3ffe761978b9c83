"""The JSON of verdicts, snapshot, spec and bundle: a JSON Schema each; one page lists every document."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from runnerctl.bundle import manifest
from runnerctl.core import doctor, fleet, health, snapshot, spec
from tests.docs.markup import table

__all__ = ["DOCUMENTS", "schema_pages"]

TYPES: dict[str, type[msgspec.Struct]] = {
    spec.SCHEMA: spec.HostSpec,
    snapshot.SCHEMA: snapshot.Snapshot,
    health.SCHEMA: health.Health,
    fleet.SCHEMA: fleet.Fleet,
    doctor.SCHEMA: doctor.Doctor,
    manifest.SCHEMA: manifest.Manifest,
}
# schema -> where it comes from; a test finds every schema in the code and wants it here.
DOCUMENTS = {
    "runnerctl.host/1": "`/etc/runnerctl/host.json` on a host; `runnerctl spec show -o json` shows it",
    "runnerctl.snapshot/1": "`runnerctl snapshot -o json`",
    "runnerctl.health/1": "`runnerctl health -o json`",
    "runnerctl.fleet/1": "`runnerctl fleet -o json`",
    "runnerctl.doctor/1": "`runnerctl doctor -o json`",
    "runnerctl.list/1": "`runnerctl list -o json`",
    "runnerctl.slots/1": "`runnerctl register`, `unregister`, `restart`, `drain` and `resume` with `-o json`",
    "runnerctl.drain/1": "`runnerctl drain -i` and `resume -i` with `-o json`",
    "runnerctl.upgrade/1": "`runnerctl upgrade -o json`",
    "runnerctl.labels/1": "`runnerctl labels add`, `remove`, `set` and `sync` with `-o json`",
    "runnerctl.groups/1": "`runnerctl group list -o json`",
    "runnerctl.group/1": "`runnerctl group create -o json`",
    "runnerctl.group_move/1": "`runnerctl group move -o json`",
    "runnerctl.prune/1": "`runnerctl prune -o json`",
    "runnerctl.keepalive/1": "`runnerctl keepalive -o json`",
    "runnerctl.adopt/1": "`runnerctl adopt -o json`",
    "runnerctl.bundled/1": "`runnerctl bundle -o json`",
    "runnerctl.bundle/1": "`manifest.json` of a bundle",
    "runnerctl.keepalive_state/1": "`runnerctl/keepalive.json` of the controller's user",
    "runnerctl.lint/1": "`runnerctl spec validate -o json`",
    "runnerctl.ci/1": "`runnerctl ci check -o json`",
    "runnerctl.ci_protect/1": "`runnerctl ci protect -o json`",
    "runnerctl.ci_init/1": "`runnerctl ci init -o json`",
    "runnerctl.env.ensure/1": "`runnerctl env ensure` and `export-activation` with `-o json`",
    "runnerctl.env.list/1": "`runnerctl env list -o json`",
    "runnerctl.env.lock/1": "`runnerctl env lock -o json`",
    "runnerctl.env.verify/1": "`runnerctl env verify -o json`",
    "runnerctl.env.gc/1": "`runnerctl env gc -o json`",
    "runnerctl.env.ask/1": "what the service of the store is asked, a line each",
    "runnerctl.env/1": "documents in the store: `envs/<digest>.json` and what belongs to it",
    "runnerctl.specs/1": "`runnerctl spec show -o json` of an inventory",
    "runnerctl.auth/1": "`runnerctl auth status -o json`",
    "runnerctl.logs/1": "`runnerctl logs SLOT -o json`",
    "runnerctl.version/1": "`runnerctl --version -o json`",
    "runnerctl.xid/1": "`runnerctl xid -o json`, with a code or without",
    "runnerctl.baseline-saved/1": "`runnerctl baseline save`, `show` and `clear` with `-o json`",
    "runnerctl.gpus/1": "`/var/lib/runnerctl/gpus.json` on a host",
    "runnerctl.baseline/1": "`/var/lib/runnerctl/baseline.json` on a host",
    "runnerctl.mig/1": "`/etc/runnerctl/mig.json` on a host",
    "runnerctl.stuck/1": "`/run/runnerctl/nvml-stuck.json` on a host",
    "runnerctl.kernel-log/1": "`/run/runnerctl/kernel-log.json` on a host",
    "runnerctl.kernel-events/1": "`/run/runnerctl/kernel-events.json` on a host",
    "runnerctl.layout/1": "`runnerctl slots plan -o json` of one host, with its hardware for `--from`",
    "runnerctl.layouts/1": "the same of several hosts, one of the former each",
    "runnerctl.hardware/1": "what a host's hardware is, as slots are laid out over it",
    "runnerctl.isolation/1": "`runnerctl isolation verify -o json`",
    "runnerctl.devices/1": "`runnerctl isolation devices SLOT -o json`",
    "runnerctl.jobs/1": "`runnerctl jobs -o json`",
    "runnerctl.clean/1": "`runnerctl clean -o json`",
    "runnerctl.mint/1": "`runnerctl mint SLOT -o json`",
    "runnerctl.guard/1": "what hooks and the guard say to each other, a line each way",
    "runnerctl.guard-job/1": "`/run/runnerctl/guard/*.json` on a host",
    "runnerctl.gpu-verdict/1": "`/run/runnerctl/gpu-verdict.json` on a host",
    "runnerctl.receipt/1": "`/var/lib/runnerctl/receipt.json` on a host",
}

HEAD = """\
# JSON

Every document names its `schema`; the number rises when a field is taken away or changes its meaning, not
when one is added. Keys are snake_case, a unit stands at the end of a name (`_bytes`, `_seconds`, `_percent`,
`_celsius`, `_watts`), times are RFC 3339 in UTC.

"""


def schema_pages() -> dict[str, str]:
    """``json.md`` and ``schemas/*.json``."""
    files = {name: f"schemas/{name.replace('/', '-')}.json" for name in TYPES}
    rows = [
        [f"`{name}`", where, f"[schema]({files[name]})" if name in files else ""]
        for name, where in DOCUMENTS.items()
    ]
    text = HEAD + table(["schema", "where", ""], rows)
    return {"json.md": text} | {path: _schema(name) for name, path in files.items()}


def _schema(name: str) -> str:
    found: dict[str, Any] = msgspec.json.schema(TYPES[name])
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **found}, indent=2) + "\n"
