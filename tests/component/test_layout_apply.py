"""``runnerctl slots apply``: the real engine and GitHub's stand-in, with hardware that the test gives."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import Process

from runnerctl.cli import layout_plan
from runnerctl.cli.context import Context, Paths
from runnerctl.cli.host import Done
from runnerctl.cli.layout_apply import Applying
from runnerctl.core.hardware import Gpu, Hardware
from runnerctl.errors import AccessError, ConfigError
from tests.component import test_cli_slots as slots
from tests.component.cli_support import TOKEN, host_json

github, tarball, host = slots.github, slots.tarball, slots.host
Host = slots.Host


def cards(*indices: int, driver: str = "575.57.08") -> Hardware:
    """A host with these GPUs."""
    gpus = tuple(Gpu(f"GPU-{index:08d}", index, name="NVIDIA L4") for index in indices)
    return Hardware(gpus=gpus, driver_version=driver)


@pytest.fixture
def laid_out(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host that wishes a slot for each of its two GPUs, and has them."""
    url = f"{host.github.url}/acme"
    host_json(host.root, url=url, slots=[{"name": "main"}], github_runner_gpus_per_slot=1)
    give(monkeypatch, cards(0, 1))
    apply(host)
    return host


def give(monkeypatch: pytest.MonkeyPatch, hardware: Hardware) -> None:
    """The host's hardware from now on."""
    monkeypatch.setattr(layout_plan, "read_here", lambda *_, **__: hardware)


def apply(host: Host, *, token: str | None = TOKEN) -> tuple[Done, str]:
    """Run the command; what it did, and its log."""
    env = {"RUNNERCTL_API_URL": f"{host.github.url}/api/v3", **({"GH_TOKEN": token} if token else {})}
    log = io.StringIO()
    context = Context(
        env=env,
        stdout=io.StringIO(),
        stderr=log,
        sleep=host.slept.append,
        paths=Paths(host.root),
        user_id=lambda: 0,
    )
    clock = iter(range(10_000))
    layout, clock = Layout(host.root), iter(range(10_000))
    command = Applying(context, layout=layout, system=host.system, clock=lambda: float(next(clock)))
    return command.apply(seconds=0.0), log.getvalue()


def acts(done: Done) -> list[str]:
    """What was done, without the links that this systemd does not make."""
    return [action for action in done.actions if not action.startswith("enable ")]


def known(host: Host) -> dict[str, Any]:
    """Its host.json."""
    data: dict[str, Any] = json.loads((host.root / "etc/runnerctl/host.json").read_text())
    return data


def records(host: Host) -> set[str]:
    """The names at GitHub."""
    return {runner["name"] for runner in host.github.control.runners()}


def labels(host: Host, name: str) -> set[str]:
    """The custom labels of a record."""
    record = host.github.control.runner(slots.SCOPE, name) or {"labels": []}
    return {label["name"] for label in record["labels"] if label["type"] == "custom"}


def test_every_gpu_gets_a_slot_and_the_second_run_does_nothing(laid_out: Host) -> None:
    """host.json, records and labels say the same; a second run needs no credential."""
    assert records(laid_out) == {"gpu-1-gpu0", "gpu-1-gpu1"}
    assert {"gpu", "gpu-count-1", "gpu-model-l4", "gpu-driver-575"} <= labels(laid_out, "gpu-1-gpu1")
    assert [slot["name"] for slot in known(laid_out)["layout"]["slots"]] == ["gpu0", "gpu1"]
    done, _ = apply(laid_out, token=None)
    assert (acts(done), done.waiting) == ([], [])


@pytest.mark.exhaustive
def test_a_gpu_that_went_takes_its_slot_along_and_no_record_stays(
    laid_out: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not without a credential; and the slot that stays is not touched at GitHub."""
    give(monkeypatch, cards(1))
    before = known(laid_out)
    with pytest.raises(AccessError):
        apply(laid_out, token=None)
    assert known(laid_out) == before
    kept = laid_out.github.control.runner(slots.SCOPE, "gpu-1-gpu1")
    done, _ = apply(laid_out)
    assert records(laid_out) == {"gpu-1-gpu1"}
    assert laid_out.github.control.runner(slots.SCOPE, "gpu-1-gpu1") == kept
    assert any("gpu0" in action for action in done.actions)
    assert not (laid_out.root / "var/lib/runnerctl/slots/gpu0.json").exists()


@pytest.mark.exhaustive
def test_a_slot_with_a_job_goes_later(laid_out: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record stays with it, and a later run takes both."""
    give(monkeypatch, cards(1))
    record = laid_out.github.control.runner(slots.SCOPE, "gpu-1-gpu0") or {}
    laid_out.github.control.change_runner(record["id"], busy=True)
    done, _ = apply(laid_out)
    assert any("slot gpu0 runs a job" in line for line in done.waiting)
    assert records(laid_out) == {"gpu-1-gpu0", "gpu-1-gpu1"}
    laid_out.github.control.change_runner(record["id"], busy=False)
    done, _ = apply(laid_out)
    assert (done.waiting, records(laid_out)) == ([], {"gpu-1-gpu1"})


def test_labels_alone_wait_for_a_credential(laid_out: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another driver: host.json tells the new labels at once, GitHub when somebody may say so."""
    give(monkeypatch, cards(0, 1, driver="580.65.06"))
    _, log = apply(laid_out, token=None)
    assert "labels at GitHub stay as they are" in log
    assert "gpu-driver-580" in known(laid_out)["layout"]["slots"][0]["labels"]
    assert "gpu-driver-575" in labels(laid_out, "gpu-1-gpu0")


def test_what_cannot_be_read_changes_nothing(laid_out: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slots stay; it is said."""
    give(monkeypatch, Hardware(unavailable="the driver is not loaded"))
    before = known(laid_out)
    done, log = apply(laid_out, token=None)
    assert (acts(done), known(laid_out)) == ([], before)
    assert "not loaded" in log


def test_what_cannot_be_is_refused_with_what_was_found(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written, nothing asked of GitHub."""
    url = f"{host.github.url}/acme"
    path = host_json(host.root, url=url, slots=[{"name": "main"}], github_runner_gpus_per_slot=3)
    give(monkeypatch, cards(0, 1))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="found GPU 0 GPU-00000000 NVIDIA L4"):
        apply(host)
    assert path.read_bytes() == before
    assert records(host) == set()


def test_a_new_slot_waits_for_a_gpu_in_use(laid_out: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slots become one with both GPUs: it is started when the job of the other has ended."""
    give(monkeypatch, cards(0, 1))
    path = laid_out.root / "etc/runnerctl/host.json"
    data = known(laid_out)
    data["github_runner"]["gpus_per_slot"] = 2
    path.write_text(json.dumps(data))
    place = laid_out.root / "proc/77/environ"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"NVIDIA_VISIBLE_DEVICES=GPU-00000001\0")
    unit = "gha-runner@gpu1.service"
    monkeypatch.setattr(laid_out.system, "main_pid", lambda name: 77 if name == unit else 0)
    busy = [Process(78, "Runner.Worker", 77)]
    monkeypatch.setattr(laid_out.system, "processes_in", lambda name: busy if name == unit else [])
    record = laid_out.github.control.runner(slots.SCOPE, "gpu-1-gpu1") or {}
    laid_out.github.control.change_runner(record["id"], busy=True)
    laid_out.system.told.clear()
    done, _ = apply(laid_out)
    assert any("GPU-00000001 is still in use by a job of slot gpu1" in line for line in done.waiting)
    assert not [line for line in laid_out.system.told if "start" in line and "gpu0" in line]
