"""``spec show -i`` and ``spec validate -i``: Ansible resolves the inventory, no host is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.component.cli_support import spawn

INVENTORY = """\
runner_hosts:
  hosts:
    gpu-1: {github_runner_labels: ["{{ rack }}"]}
    gpu-2: {}
  vars:
    rack: r7
    github_runner_url: https://github.com/acme
"""


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """Two hosts, one with a label that is a template."""
    path = tmp_path / "hosts.yml"
    path.write_text(INVENTORY)
    return path


@pytest.mark.exhaustive
def test_show_gives_what_a_host_would_get(inventory: Path) -> None:
    """Templates are resolved; every host has its spec."""
    ran = spawn("spec", "show", "-i", str(inventory), "-o", "json")
    assert ran.code == 0, ran.err
    assert ran.json["schema"] == "runnerctl.specs/1"
    first, second = ran.json["hosts"]
    assert (first["host"], second["host"]) == ("gpu-1", "gpu-2")
    assert first["spec"]["github_runner"]["labels"] == ["r7"]
    ran = spawn("spec", "show", "-i", str(inventory), "--limit", "gpu-1")
    assert 'github_runner_labels: ["r7"]' in ran.out and "gpu-2" not in ran.out


def test_validate_is_clean_or_names_everything(inventory: Path) -> None:
    """Misspelt and mistyped variables of all hosts in one go, each with host, variable and remedy."""
    clean = spawn("spec", "validate", "-i", str(inventory))
    assert (clean.code, clean.out) == (0, "no problem found\n"), clean.err
    wrong = INVENTORY.replace(
        "gpu-2: {}", "gpu-2: {github_runner_lables: [x], nvidia_driver_gpu_count: many}"
    )
    inventory.write_text(wrong)
    ran = spawn("spec", "validate", "-i", str(inventory), "-o", "json")
    assert ran.code == 1, ran.err
    messages = [finding["message"] for finding in ran.json["findings"]]
    assert len(messages) == 2 and all(message.startswith("gpu-2: ") for message in messages)
    assert any("github_runner_lables" in text and "github_runner_labels?" in text for text in messages)
    assert any("nvidia_driver_gpu_count" in text and "'many'" in text for text in messages)


@pytest.mark.exhaustive
def test_an_inventory_that_cannot_be_used(tmp_path: Path, inventory: Path) -> None:
    """No runner hosts, nothing that matches, nothing that Ansible can read: one line each."""
    ran = spawn("spec", "validate", "-i", "localhost,")
    assert ran.code == 78 and "runner_hosts" in ran.err and ran.err.count("\n") == 1
    ran = spawn("spec", "validate", "-i", str(inventory), "-l", "nobody")
    assert ran.code == 78 and "match 'nobody'" in ran.err and ran.err.count("\n") == 1
    broken = tmp_path / "broken.ini"
    broken.write_text("gpu-9 a=b=c {{\n")
    ran = spawn("spec", "validate", "-i", str(broken))
    assert ran.code == 69 and ran.err.count("\n") == 1
