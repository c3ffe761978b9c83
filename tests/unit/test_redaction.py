"""What a saved snapshot must not tell: serials, containers' names, what the site configured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runnerctl.core.redaction import redacted
from runnerctl.core.snapshot import decode, encode

HEALTHY = Path(__file__).parent / "cases" / "healthy.json"


def _hidden(**fields: Any) -> tuple[str, dict[str, Any]]:
    """The healthy host with more fields, redacted: as text and as data."""
    tree = {**json.loads(HEALTHY.read_text()), **fields}
    text = encode(redacted(decode(json.dumps(tree).encode()))).decode()
    return text, json.loads(text)


def test_history_keeps_its_counts_under_the_gpus_pseudonym() -> None:
    """A UUID may be a key, too."""
    uuid = json.loads(HEALTHY.read_text())["nvml"]["gpus"][0]["uuid"]
    _, tree = _hidden(gpu_history={"reading": "taken", "clean_probes": {uuid: 2}})
    assert tree["gpu_history"]["clean_probes"] == {tree["nvml"]["gpus"][0]["uuid"]: 2}


def test_serials_and_containers_go() -> None:
    """Both lead to somebody."""
    tree = json.loads(HEALTHY.read_text())
    tree["nvml"]["gpus"][0]["serial"] = "1654322007123"
    containers = [{"id": "9f86d081884c", "name": "secret-training", "denied": False}]
    text, found = _hidden(nvml=tree["nvml"], container_gpus={"reading": "taken", "containers": containers})
    assert "1654322007123" not in text and "secret-training" not in text and "9f86d081884c" not in text
    assert found["nvml"]["gpus"][0]["serial"] == "serial-1"
    assert found["nvml"]["gpus"][0]["name"] == tree["nvml"]["gpus"][0]["name"]


def test_the_names_of_jobs_programs_go() -> None:
    """The kernel names the program whose work went wrong, once in a field and once in its line."""
    line = "NVRM: Xid (PCI:0000:01:00): 13, pid=4711, name=secretmodel, Graphics Exception"
    event = {"time": "2026-11-22T08:00:00Z", "boot_id": "b", "kind": "xid", "code": 13, "pci": "0000:01:00"}
    log: dict[str, Any] = {"reading": "taken", "boot_id": "b", "source": "journal"}
    log["events"] = [{**event, "message": line, "process": "secretmodel", "pid": 4711}]
    text, _ = _hidden(kernel_log=log)
    assert "secretmodel" not in text and "process-1" in text


def test_addresses_of_the_site_go_and_public_ones_stay() -> None:
    """A mirror's name is the site's; NVIDIA's is everybody's."""
    spec = json.loads(HEALTHY.read_text())["spec"]
    spec["spec"]["nvidia_driver"]["repository_url"] = "https://mirror.acme.example/cuda/{distribution}"
    spec["spec"]["container_toolkit"]["docker_config"] = {"registry-mirrors": ["https://hub.acme.example"]}
    text, found = _hidden(spec=spec)
    assert "acme.example" not in text
    assert found["spec"]["spec"]["container_toolkit"]["repository_url"].startswith(
        "https://nvidia.github.io/"
    )
