"""The command line on a provisioned host: what it says of real faults, and what it does with real jobs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runnerctl.core.labels import is_derived
from tests.hosts import gpu
from tests.hosts.controller import Controller
from tests.hosts.host import Done, Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.site import Site

UNIT = "gha-runner@main"
STATUSES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
EXIT = {"OK": 0, "WARNING": 1, "CRITICAL": 2, "UNKNOWN": 3}
DEADLINE_SECONDS = 2
HOST_FILE = "/etc/runnerctl/host.json"
PENDING = "/var/lib/runnerctl/pending/main"
GO = "/var/lib/gha-runner/main/home/go"


@pytest.fixture(scope="module")
def fresh(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A host that has the command line, and no spec yet."""
    controller = Controller(Path(tmp_path_factory.mktemp("cli")), lab.keys)
    host = module_hosts(devices=gpu.devices())
    variables = {
        "conda_manage": False,
        "runnerctl_health_timer": False,  # faults are made here that it would act on
        "nvidia_driver_gpu_count": 1,
        "github_runner_slots": [{"name": "main", "gpus": [gpu.UUID], "labels": ["l4"]}],
    }
    site = Site([host], module_world, controller, variables)
    site.provision("--tags", "runnerctl")
    host.exec("rm", "-r", "/etc/runnerctl")
    yield site
    assert module_world.control.violations() == []


@pytest.fixture(scope="module")
def provisioned(fresh: Site) -> Site:
    """The same host with one L4, its driver, and one slot."""
    gpu.install(fresh.host)
    fresh.provision()
    return fresh


@pytest.fixture
def site(provisioned: Site) -> Site:
    """That host, healthy."""
    provisioned.github.wait_runner(provisioned.world.scope, f"{provisioned.host.name}-main")
    provisioned.github.clear_requests()
    return provisioned


def cli(site: Site, words: str, *, token: bool = False, seconds: float = 90) -> Done:
    """Run ``runnerctl`` by SSH; with ``token``, a credential is in the environment of this command only."""
    if not token:
        return site.host.ssh(f"runnerctl {words}", check=False, seconds=seconds)
    command = f"GH_TOKEN=$(cat) exec runnerctl {words}"
    return site.host.ssh(command, check=False, seconds=seconds, stdin=site.world.token)


def answer(site: Site, words: str, **settings: Any) -> dict[str, Any]:
    """The JSON of a command that succeeds."""
    done = cli(site, f"{words} -o json", **settings)
    assert done.rc == 0, done.stdout + done.stderr
    data: dict[str, Any] = json.loads(done.stdout)
    return data


def findings(done: Done) -> dict[str, dict[str, Any]]:
    """The worst finding of each check, after the verdict was held against the contract."""
    verdict = json.loads(done.stdout)
    assert set(verdict) == {"schema", "status", "host", "checked_at", "duration_seconds", "findings"}
    assert verdict["schema"] == "runnerctl.health/1"
    assert verdict["checked_at"].endswith("Z")
    assert done.rc == EXIT[verdict["status"]]
    found: dict[str, dict[str, Any]] = {}
    order = ("OK", "WARNING", "UNKNOWN", "CRITICAL")
    for finding in verdict["findings"]:
        assert set(finding) == {"id", "status", "subject", "summary", "remedy", "data"}
        assert finding["status"] in STATUSES
        assert finding["remedy"] or finding["status"] == "OK", finding
        old = found.get(finding["id"])
        if old is None or order.index(finding["status"]) > order.index(old["status"]):
            found[finding["id"]] = finding
    return found


def judged(site: Site, check: str, *, options: str = "", token: bool = False) -> tuple[int, dict[str, Any]]:
    """Exit code of `runnerctl health`, and what one check found."""
    done = cli(site, f"health -o json {options}", token=token)
    assert "Traceback" not in done.stderr
    return done.rc, findings(done)[check]


@contextmanager
def working(site: Site) -> Iterator[int]:
    """A job that runs for as long as this, or until there is a file; it must end well, whatever is done."""
    wait = f"while [ ! -e {GO} ]; do sleep 0.1; done; echo survived"
    job = site.job(wait, labels=["l4"])
    site.github.wait_job(job, status="in_progress")
    try:
        yield job
    finally:
        site.shell(f"touch {GO}")
        result, log = site.result(job)
        site.shell(f"rm -f {GO}")  # the guard has cleaned up behind the job
    assert result == "success", log
    assert "survived" in log


@contextmanager
def scenario(site: Site, *lines: str) -> Iterator[None]:
    """NVIDIA's library behaves otherwise for a while."""
    site.write("/etc/nvml-scenario", gpu.ONE_L4 + "".join(f"{line}\n" for line in lines))
    try:
        yield
    finally:
        site.write("/etc/nvml-scenario", gpu.ONE_L4)


# -- never provisioned -------------------------------------------------------------------------------------


def test_a_host_that_was_never_provisioned_is_told_facts(fresh: Site) -> None:
    """Useful, and no wall of red: nothing was promised, so nothing is broken."""
    assert not fresh.host.exists(HOST_FILE)
    done = cli(fresh, "health -o json")
    assert done.rc in (0, 1), done.stdout
    found = findings(done)
    assert "never provisioned" in found["host.spec"]["summary"]
    assert found["host.disk"]["status"] == "OK"
    assert not any(name.startswith(("slot.", "github.", "conda.")) for name in found)
    assert "no slot" in cli(fresh, "list").stderr
    done = cli(fresh, "spec show")
    assert done.rc == 64
    assert "provision this host first" in done.stderr
    done = cli(fresh, "register", token=True)
    assert done.rc == 78
    assert "never provisioned" in done.stderr


# -- healthy -----------------------------------------------------------------------------------------------


def test_a_healthy_host_is_ok(site: Site) -> None:
    """As text and as JSON, by root and by anybody; with a credential GitHub's view too."""
    done = cli(site, "health")
    assert done.rc == 0, done.stdout
    assert done.stdout.startswith(f"{site.host.name}: OK")
    found = findings(cli(site, "health -o json"))
    assert found["gpu.slots"]["summary"] == "the GPU it claims is here"
    assert found["driver.nvml"]["data"]["count"] == 1
    assert not any(name.startswith("github.") for name in found), "no credential, no word of GitHub"
    done = cli(site, "health -o json", token=True)
    assert done.rc == 0, done.stdout
    assert {"github.record", "github.online", "github.labels", "github.version"} <= set(findings(done))
    unprivileged = site.host.exec("runnerctl", "health", "-o", "json", user="admin", check=False)
    assert "CRITICAL" not in {finding["status"] for finding in findings(unprivileged).values()}


def test_a_saved_snapshot_gives_the_same_verdict_anywhere(site: Site) -> None:
    """Redacted by default: it names neither host nor repository nor GPU."""
    with scenario(site, "fault nvmlInitWithFlags return 18"):
        saved = cli(site, "snapshot -o json").stdout
        here = findings(cli(site, "health -o json"))
    for secret in (site.host.name, gpu.UUID, "acme", site.world.token):
        assert secret not in saved
    site.host.put("/root/snapshot.json", saved)
    there = findings(cli(site, "health --from /root/snapshot.json -o json"))
    assert {name: finding["status"] for name, finding in there.items()} == {
        name: finding["status"] for name, finding in here.items()
    }
    assert there["driver.mismatch"]["status"] == "CRITICAL"


# -- faults ------------------------------------------------------------------------------------------------


def test_a_stopped_unit_and_a_killed_listener(site: Site) -> None:
    """Stopped by hand: CRITICAL. Killed: systemd starts it again, and it is OK again."""
    site.shell(f"systemctl stop {UNIT}")
    rc, finding = judged(site, "slot.unit")
    assert (rc, finding["status"], finding["subject"]) == (2, "CRITICAL", "main")
    site.shell(f"systemctl start {UNIT}")
    site.github.wait_runner(site.world.scope, f"{site.host.name}-main")
    site.shell(f"systemctl kill --kill-whom=main -s KILL {UNIT}")
    rc, finding = judged(site, "slot.unit")
    assert (rc, finding["status"]) == (1, "WARNING")
    assert "is starting again" in finding["summary"]
    deadline = time.monotonic() + 30
    while cli(site, "health").rc != 0:
        assert time.monotonic() < deadline, cli(site, "health").stdout


def test_a_hung_listener(site: Site) -> None:
    """Process and unit live on; GitHub's view, where a credential is, tells."""
    name = f"{site.host.name}-main"
    site.write("/var/lib/gha-runner/main/.env", "GHA_STAND_IN_FAULT=hang\nGHA_STAND_IN_TIME_SCALE=25\n")
    site.shell(f"systemctl stop {UNIT} && systemctl start {UNIT}")
    try:
        site.github.wait_runner(site.world.scope, name)
        site.github.wait_runner(site.world.scope, name, status="offline", seconds=60)
        assert site.shell(f"systemctl is-active {UNIT}").strip() == "active"
        rc, finding = judged(site, "github.online", token=True)
        assert (rc, finding["status"], finding["subject"]) == (2, "CRITICAL", "main")
    finally:
        site.slots()


def test_labels_changed_and_record_deleted_on_github(site: Site) -> None:
    """Seen with a credential; a deleted record ends the listener, which is seen without one too."""
    record = site.record("main") or {}
    site.github.change_runner(record["id"], labels=["l4", "by-hand"])
    rc, finding = judged(site, "github.labels", token=True)
    assert (rc, finding["status"]) == (1, "WARNING")
    assert [label for label in finding["data"]["missing"] if not is_derived(label)] == ["gpu"]
    assert finding["data"]["extra"] == ["by-hand"]
    site.github.delete_runner(record["id"])
    rc, finding = judged(site, "github.record", token=True)
    assert (rc, finding["status"]) == (2, "CRITICAL")
    deadline = time.monotonic() + 30
    while judged(site, "slot.unit")[1]["status"] != "CRITICAL":
        assert time.monotonic() < deadline, site.host.journal(UNIT)
    site.slots()


def test_room_below_the_limit(site: Site) -> None:
    """The limits are the spec's."""
    whole = site.host.read(HOST_FILE)
    spec = json.loads(whole)
    try:
        for limit, code, status in (("warning", 1, "WARNING"), ("critical", 2, "CRITICAL")):
            spec["runnerctl"][f"health_disk_free_{limit}_percent"] = 100
            site.write(HOST_FILE, json.dumps(spec))
            rc, finding = judged(site, "host.disk")
            assert (rc, finding["status"]) == (code, status)
            assert "under 100 %" in finding["summary"]
    finally:
        site.write(HOST_FILE, whole)
    assert cli(site, "health").rc == 0


def test_a_truncated_spec(site: Site) -> None:
    """The host is judged by its facts; the line says what to do. Other commands refuse."""
    whole = site.host.read(HOST_FILE)
    site.write(HOST_FILE, whole[: len(whole) // 2])
    try:
        rc, finding = judged(site, "host.spec")
        assert rc in (2, 3)
        assert finding["status"] in ("CRITICAL", "UNKNOWN")
        assert "cut short" in finding["summary"]
        assert "--tags runnerctl" in finding["remedy"]
        done = cli(site, "spec show")
        assert done.rc == 65
        assert "cut short" in done.stderr
    finally:
        site.write(HOST_FILE, whole)


@pytest.mark.parametrize(
    ("line", "check", "words"),
    [
        ("fault nvmlDeviceGetMemoryInfo_v2@0 hang", "gpu.answers", "nvmlDeviceGetMemoryInfo"),
        ("fault nvmlSystemGetDriverVersion hang", "driver.nvml", "nvmlSystemGetDriverVersion"),
        ("fault nvmlInitWithFlags return 18", "driver.mismatch", "library and kernel module differ"),
        ("fault nvmlDeviceGetUUID@0 return 15", "gpu.answers", "fallen off the bus"),
        ("count 0", "gpu.count", "0 of 1 GPU"),
    ],
)
def test_a_sick_gpu(site: Site, line: str, check: str, words: str) -> None:
    """Within the deadline, with the call; a hang of one GPU names that GPU."""
    with scenario(site, line):
        begin = time.monotonic()
        rc, finding = judged(site, check, options=f"--deadline {DEADLINE_SECONDS}")
        took = time.monotonic() - begin
    assert (rc, finding["status"]) == (2, "CRITICAL")
    assert words in finding["summary"]
    if check == "gpu.answers":
        assert finding["subject"] == "GPU 0"
    assert took < DEADLINE_SECONDS + 10, "the rest is SSH and a busy machine"
    assert cli(site, "health").rc == 0


# -- questions ---------------------------------------------------------------------------------------------


def test_list_logs_and_spec(site: Site) -> None:
    """Local view without, GitHub's with a credential; a slot that is not there is a clear refusal."""
    (slot,) = answer(site, "list")["slots"]
    name = f"{site.host.name}-main"
    assert (slot["slot"], slot["runner_name"], slot["busy"]) == ("main", name, False)
    assert "gpu" in slot["labels"]
    with working(site):
        shown = cli(site, "list", token=True)
        assert shown.rc == 0, shown.stderr
        assert "online" in shown.stdout
        assert answer(site, "list")["slots"][0]["busy"] is True
    assert "Listening for Jobs" in cli(site, "logs main").stdout
    assert cli(site, "logs main --worker").stdout
    done = cli(site, "logs other")
    assert done.rc == 78
    assert "slots here: main" in done.stderr
    spec = answer(site, "spec show")
    assert "main" in json.dumps(spec)
    assert cli(site, "spec validate").rc == 0


# -- acts --------------------------------------------------------------------------------------------------


def test_unregister_and_register_again_leave_no_token(site: Site) -> None:
    """The record goes and comes back under its name; no credential is in a file, log or process."""
    old = (site.record("main") or {})["id"]
    answer(site, "unregister main", token=True)
    assert site.record("main") is None
    assert site.shell(f"systemctl is-active {UNIT} || true").strip() != "active"
    assert answer(site, "unregister main", token=True)["actions"] == []
    answer(site, "register", token=True)
    record = site.record("main") or {}
    assert record["status"] == "online"
    assert record["id"] != old
    assert answer(site, "register", token=True)["actions"] == []
    secrets = [site.world.token, *site.github.secrets("registration", "remove")]
    assert len(secrets) > 1
    site.host.put("/root/.secrets", "\n".join(secrets))
    places = "/etc /opt /root /tmp /run /var /proc/[0-9]*/cmdline /proc/[0-9]*/environ"
    found = site.shell(f"grep -rlaF -f /root/.secrets {places} 2>/dev/null; true").splitlines()
    journal = site.shell("journalctl --no-pager -o export | grep -caF -f /root/.secrets || true")
    site.shell("rm /root/.secrets")
    assert [line for line in found if line != "/root/.secrets" and not line.startswith("/proc/self")] == []
    assert journal.strip() == "0"
    assert site.slots().recap[site.host.name].changed == 0


def test_no_act_while_a_job_runs(site: Site) -> None:
    """`restart` refuses, `--when-idle` waits, `unregister` gives up in time: the job is not harmed."""
    before = site.shell(f"systemctl show -p InvocationID {UNIT}")
    with working(site):
        done = cli(site, "restart main")
        assert done.rc == 75
        assert "--when-idle" in done.stderr
        done = cli(site, "unregister main --timeout 1", token=True)
        assert done.rc == 75, done.stdout + done.stderr
        done = cli(site, "restart main --when-idle --timeout 1")
        assert done.rc == 75, done.stdout + done.stderr
        assert site.shell(f"systemctl show -p InvocationID {UNIT}") == before
        site.shell(f"setsid sh -c 'sleep 2; touch {GO}' >/dev/null 2>&1 &")
        done = cli(site, "restart main --when-idle")
        assert done.rc == 0, done.stderr
    assert site.shell(f"systemctl show -p InvocationID {UNIT}") != before
    assert site.slots().recap[site.host.name].changed == 0


def test_a_pending_restart_is_applied_when_the_job_ends(site: Site) -> None:
    """By the host itself: no further converge, no credential."""
    site.variables["github_runner_env"] = {"SOMETHING": "new"}
    try:
        with working(site):
            site.slots()
            assert site.host.exists(PENDING)
            rc, finding = judged(site, "slot.pending_restart")
            assert (rc, finding["status"]) == (1, "WARNING")
            assert "restarts when idle" in cli(site, "list").stdout
        deadline = time.monotonic() + 60
        while site.host.exists(PENDING):
            assert time.monotonic() < deadline, site.host.journal("gha-restart@main")
            time.sleep(0.5)
        assert "got=new" in site.result(site.job("echo got=$SOMETHING", labels=["l4"]))[1]
        assert site.slots().recap[site.host.name].changed == 0
    finally:
        del site.variables["github_runner_env"]
        site.slots()
