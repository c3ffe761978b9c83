"""All roles through the real play: two hosts, of two distributions and reached by two kinds of user."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runnerctl.core.labels import is_derived
from runnerctl.core.spec import host_spec
from tests.hosts import gpu
from tests.hosts.controller import Controller, Outcome
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.site import GPU, LEAN, Site

OTHER_GPU = "GPU-0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f9"
NEWER_CONDA = "26.5.0-1"
CONDA = "Install Miniforge and conda's settings"
CLI = "Install runnerctl and write the spec of the host"
CONDARC = "/etc/conda/condarc.d/10-runnerctl.yml"
HOST_FILE = "/etc/runnerctl/host.json"
# Everything that a play could change: files, packages, users, units.
TREE = (
    "find {places} -xdev -not -path '/var/lib/systemd/*' -printf '%p %m %u %g {time}%l\\n' 2>/dev/null | sort"
)
FINGERPRINT = (
    TREE.format(places="/etc /opt /usr/local /var/lib /root /home", time="%T@ ")
    + "; dpkg -l; systemctl list-unit-files --no-legend"
)
END_STATE = TREE.format(
    places="/opt/miniforge3* /opt/runnerctl /etc/conda /etc/runnerctl /usr/local /var/lib/gha-runner/*",
    time="",
)


@pytest.fixture(scope="module")
def site(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A bare Debian 12 host for root, and a Debian 13 host whose user has to become root."""
    controller = Controller(Path(tmp_path_factory.mktemp("provision")), lab.keys)
    hosts = [module_hosts(variant="bare"), module_hosts(suite="trixie", user="admin")]
    for host, uuid in zip(hosts, (GPU, OTHER_GPU), strict=True):
        gpu.install(host, gpu.ONE_L4.replace(gpu.UUID, uuid))  # else the health timer would hold their slots
    hosts[1].ssh("sudo true")  # sudo notes its first use in the user's home
    slots: list[list[dict[str, Any]]] = [
        [{"name": "main", "gpus": [GPU]}, {"name": "plain"}],
        [{"name": "main", "gpus": [OTHER_GPU]}],
    ]
    per_host = {host.name: {"github_runner_slots": each} for host, each in zip(hosts, slots, strict=True)}
    yield Site(hosts, module_world, controller, per_host=per_host)
    assert module_world.control.violations() == []


@pytest.fixture
def converged(site: Site) -> Iterator[Site]:
    """The hosts after the first converge; what a test changed in the inventory is taken back."""
    variables = dict(site.variables)
    site.github.clear_requests()
    yield site
    site.variables = variables
    site.world.mirror.faults.clear()


def _all(site: Site, command: str) -> dict[str, str]:
    """What a command says on each host."""
    return {host.name: host.exec("sh", "-c", command).stdout for host in site.hosts}


def _lines(site: Site, command: str) -> set[tuple[str, str]]:
    """The same line by line, so that a difference can be read: (host, line)."""
    return {(name, line) for name, text in _all(site, command).items() for line in text.splitlines()}


def _changed(outcome: Outcome) -> dict[str, int]:
    return {name: recap.changed for name, recap in outcome.recap.items() if name != "localhost"}


def _log(site: Site, run: str, *, labels: list[str] | None = None) -> str:
    result, log = site.result(site.job(run, labels=labels))
    assert result == "succeeded" or result == "success", log
    return log


# -- the whole play ----------------------------------------------------------------------------------------


def test_check_mode_on_bare_hosts_is_truthful_and_the_first_converge_follows_it(site: Site) -> None:
    """Nothing is written on a host or on GitHub, no token is minted; the real run changes the same tasks."""
    before = _lines(site, FINGERPRINT)
    predicted = site.provision("--check", "--diff")
    assert _lines(site, FINGERPRINT) ^ before == set()
    assert site.github.counts()[1] == 0, "check mode wrote to GitHub"
    assert site.github.secrets("registration", "remove") == []
    assert site.world.mirror.downloads() == {}
    real = site.provision()
    for host in site.hosts:
        assert predicted.changed(host.name) == real.changed(host.name)
        assert len(real.changed(host.name)) >= 4, real.changed(host.name)
        record = site.github.wait_runner(site.world.scope, f"{host.name}-main")
        names = {label["name"].lower() for label in record["labels"]}
        assert {name for name in names if not is_derived(name)} == {"self-hosted", "linux", "x64", "gpu"}
        assert "gpu-model-l4" in names


def test_the_second_run_changes_nothing(converged: Site) -> None:
    """`changed=0` on both hosts, for real and in check mode; no write to GitHub, no download."""
    converged.world.mirror.forget_downloads()
    for options in ((), ("--check", "--diff")):
        outcome = converged.provision(*options)
        assert _changed(outcome) == {host.name: 0 for host in converged.hosts}, outcome.changed()
    assert converged.github.counts()[1] == 0
    assert converged.world.mirror.downloads() == {}


def test_jobs_for_a_gpu_run_on_both_hosts(converged: Site) -> None:
    """Two jobs at a time go to two hosts, each with its own GPU; the slot without one gets neither."""
    jobs = [converged.job("sleep 3; echo on=$(hostname) gpu=$CUDA_VISIBLE_DEVICES") for _ in range(2)]
    logs = "".join(converged.result(job)[1] for job in jobs)
    for host, uuid in zip(converged.hosts, (GPU, OTHER_GPU), strict=True):
        assert f"on={host.name} gpu={uuid}" in logs


def test_tags_and_limit_reach_what_they_name_and_nothing_else(converged: Site) -> None:
    """A role by its tag, a host by its name; roles that need no GitHub need no credential."""
    first, second = converged.hosts
    for host in converged.hosts:
        host.exec("sh", "-c", f"echo '# by hand' >> {CONDARC}; echo >> {HOST_FILE}")
    no_credential = {"environment": {"GH_TOKEN": ""}}
    outcome = converged.provision("--tags", "conda", "--limit", first.name, **no_credential)
    assert outcome.changed() == [_full(outcome, CONDA)]
    assert set(outcome.recap) <= {first.name, "localhost"}
    outcome = converged.provision("--tags", "runnerctl", **no_credential)
    assert outcome.changed() == [_full(outcome, CLI)] * 2
    assert converged.github.counts()[0] == 0, "GitHub was asked"
    outcome = converged.provision()
    assert _changed(outcome) == {first.name: 0, second.name: 1}
    assert outcome.changed() == [_full(outcome, CONDA)]


def _full(outcome: Outcome, task: str) -> str:
    """The task's name with its role, as results have it."""
    return outcome.result(task).task


# -- role conda --------------------------------------------------------------------------------------------


def test_conda_is_roots_and_a_job_cannot_change_it(converged: Site) -> None:
    """Neither by permission nor from within the slot's unit; so it is with the command line."""
    places = "/opt/miniforge3/ /etc/conda /opt/runnerctl /etc/runnerctl /usr/local/bin/runnerctl"
    drop = "setpriv --reuid gha-main --regid gha-main --clear-groups"
    for loose in _all(converged, f"{drop} find {places} -writable -not -type l").values():
        assert loose == ""
    for foreign in _all(converged, f"find {places} -not '(' -user root -group root ')'").values():
        assert foreign == ""
    attempts = ["touch $CONDA/x", "mkdir $CONDA/envs/x", "echo >> $CONDA/bin/conda", f"echo >> {CONDARC}"]
    script = "; ".join(f"( {each} ) 2>/dev/null && echo REACHED" for each in attempts)
    assert "Z REACHED" not in _log(converged, f"{script}; echo conda=$CONDA")


def test_the_host_settings_are_in_force_for_a_job(converged: Site) -> None:
    """conda-forge alone, strict, no activation; environments and package cache in the user's own home."""
    log = _log(converged, 'echo conda=$CONDA; "$CONDA/bin/conda" config --show-sources')
    assert "conda=/opt/miniforge3" in log
    for line in (
        f"==> {CONDARC} <==",
        'channels: ["conda-forge"]',
        'default_channels: ["conda-forge"]',
        "channel_priority: strict",
        "auto_activate: false",
        "pkgs_dirs: [~/.conda/pkgs]",
        "envs_dirs: [~/.conda/envs]",
    ):
        assert line in log, line
    assert "anaconda.com" not in log


def test_package_caches_are_private_to_each_user(converged: Site) -> None:
    """What one slot's job puts into its cache another slot's job cannot even see."""
    job = converged.job("mkdir -p ~/.conda/pkgs && echo mine > ~/.conda/pkgs/urls.txt; sleep 10")
    caches = "/var/lib/gha-runner/main/home/.conda"
    begun = f"[ -e {caches}/pkgs/urls.txt ] && stat -c %U {caches} && break"
    seek = f"for _ in $(seq 30); do {begun}; sleep 0.2; done"
    assert any(_all(converged, seek).values())
    look = f"cat {caches}/pkgs/urls.txt && echo REACHED; ls /var/lib/gha-runner/main && echo REACHED; true"
    drop = "setpriv --reuid gha-plain --regid gha-plain --clear-groups sh -c"
    assert "REACHED" not in converged.shell(f'{drop} "{look}" 2>/dev/null')
    assert converged.result(job)[0] == "success"


def test_a_wrong_checksum_is_refused(converged: Site) -> None:
    """Both sums are told; the conda that is there stays and works."""
    converged.world.mirror.add_miniforge(NEWER_CONDA)
    converged.variables |= {"conda_version": NEWER_CONDA, "conda_sha256": "0" * 64}
    outcome = converged.play("provision.yml", "--tags", "conda")
    assert outcome.rc != 0
    for failure in outcome.failures():
        assert "SHA-256 is" in failure.msg
        assert "0" * 64 in failure.msg
    assert outcome.changed() == []
    assert set(_all(converged, "/opt/miniforge3/bin/conda --version").values()) == {"conda 26.3.2\n"}
    assert set(_all(converged, "ls -d /opt/miniforge3-* | wc -l").values()) == {"1\n"}


def test_miniforge_is_upgraded_in_place_and_files_stay(converged: Site) -> None:
    """A new version on the mirror: the same path, the environments of users and administrators stay."""
    first, second = converged.hosts
    mine = "/var/lib/gha-runner/main/home/.conda/envs/precious"
    _all(converged, f"mkdir -p {mine} && echo 1 > {mine}/file && chown -R gha-main: {mine}")
    first.exec("mkdir", "-p", "/opt/miniforge3/envs/shared/bin")
    converged.world.mirror.add_miniforge(NEWER_CONDA)
    converged.variables["conda_version"] = NEWER_CONDA
    outcome = converged.provision("--tags", "conda")
    assert _changed(outcome) == {first.name: 1, second.name: 1}
    assert set(_all(converged, "/opt/miniforge3/bin/conda --version").values()) == {"conda 26.5.0\n"}
    assert set(_all(converged, f"cat {mine}/file").values()) == {"1\n"}
    assert first.exists("/opt/miniforge3-26.3.2-3/envs/shared/bin"), "an environment was destroyed"
    assert not second.exists("/opt/miniforge3-26.3.2-3")
    assert _changed(converged.provision("--tags", "conda")) == {first.name: 0, second.name: 0}
    assert "26.5.0" in _log(converged, "$CONDA/bin/conda --version")
    converged.variables.pop("conda_version")
    first.exec("rm", "-r", "/opt/miniforge3-26.3.2-3/envs/shared")
    converged.provision("--tags", "conda")


# -- role runnerctl ----------------------------------------------------------------------------------------


def test_the_command_line_is_there_for_everybody(converged: Site) -> None:
    """On everybody's path, with completion; an unprivileged user may ask and not act."""
    for host in converged.hosts:
        as_admin = replace(host, user="admin") if host is converged.hosts[1] else host
        assert as_admin.ssh("runnerctl --version").stdout.startswith("runnerctl ")
        assert "runnerctl" in host.read("/usr/share/bash-completion/completions/runnerctl")
        done = host.exec("runnerctl", "restart", "main", user="admin", check=False)
        assert done.rc == 77, done.stderr
        assert "only root" in done.stderr
        assert host.exec("runnerctl", "list", user="admin").stdout.startswith("SLOT")


def test_host_json_is_the_spec(converged: Site) -> None:
    """What inventory says, validated: neither more nor less, for everybody to read and root to write."""
    for host in converged.hosts:
        variables = {**converged.world.variables(), **LEAN, **converged.per_host[host.name]}
        spec, problems = host_spec(host.name, variables)
        assert spec is not None and problems == []
        found = json.loads(host.read(HOST_FILE))
        layout = found.pop("layout")
        assert [share["name"] for share in layout["slots"]] == [s.name for s in spec.github_runner.slots]
        assert {**found, "layout": None} == json.loads(msgspec.json.encode(spec))
        assert host.exec("stat", "-c", "%U:%G %a", HOST_FILE).stdout == "root:root 644\n"
        assert converged.world.token not in host.read(HOST_FILE)


def test_an_older_schema_is_migrated(converged: Site) -> None:
    """Predicted by check mode, replaced by the run; the command line says what to do in between."""
    host = converged.host
    before = host.read(HOST_FILE)
    converged.write(HOST_FILE, '{"schema": "runnerctl.host/0", "name": "x"}')
    done = host.exec("runnerctl", "spec", "show", check=False)
    assert done.rc == 65
    assert "older schema runnerctl.host/0" in done.stderr
    assert _changed(converged.provision("--check", "--tags", "runnerctl"))[host.name] == 1
    assert _changed(converged.provision("--tags", "runnerctl"))[host.name] == 1
    assert host.read(HOST_FILE) == before


# -- kills -------------------------------------------------------------------------------------------------


def test_killed_in_role_conda_and_in_role_runnerctl_then_run_again(converged: Site) -> None:
    """SIGKILL during a download and during an installation: the next run reaches the same end state."""
    whole = _lines(converged, END_STATE)
    gone = "/opt/miniforge3* /etc/conda /opt/runnerctl /etc/runnerctl /usr/local/bin/runnerctl"
    _all(converged, f"rm -r {gone}")
    converged.world.mirror.fault("slow", "*.sh", bytes_per_second=2048)
    _kill_when(converged, CONDA, "ls -d /opt/.miniforge3.*/.installer.sh.*")
    converged.world.mirror.faults.clear()
    _kill_when(converged, CLI, "cd /opt/runnerctl/venv-* && ls bin/pip && ! ls installed.json")
    converged.provision()
    assert _lines(converged, END_STATE) ^ whole == set()
    assert _changed(converged.provision()) == {host.name: 0 for host in converged.hosts}


def _kill_when(site: Site, task: str, command: str) -> None:
    """SIGKILL the play as soon as a command succeeds on the first host while a task runs."""
    run = site.start("provision.yml")
    run.wait_for(task)
    deadline = time.monotonic() + 120
    while site.host.exec("sh", "-c", f"({command}) >/dev/null 2>&1", check=False).rc:
        assert time.monotonic() < deadline, f"{task}: its middle was never seen"
        assert run.process.poll() is None, run.output.read_text()
        time.sleep(0.05)
    run.kill()


# -- a smaller host ----------------------------------------------------------------------------------------


def test_a_host_without_conda_and_without_gpus_is_a_choice(
    lab: Lab, module_world: World, hosts: Callable[..., Host], tmp_path: Path
) -> None:
    """`conda_manage: false` installs none and promises none; no GPU, no label `gpu`; health agrees."""
    host = hosts()
    variables = {
        "conda_manage": False,
        "github_runner_slots": [{"name": "main", "gpus": [], "labels": ["cpu"]}],
    }
    small = Site([host], module_world, Controller(tmp_path / "small", lab.keys), variables)
    outcome = small.provision()
    assert not any(name.endswith(CONDA) for name in outcome.changed())
    assert not host.exists("/opt/miniforge3")
    assert not host.exists("/etc/conda")
    assert small.custom_labels("main") == {"cpu"}
    assert "conda=none gpu=-1" in _log(
        small, "echo conda=${CONDA:-none} gpu=$CUDA_VISIBLE_DEVICES", labels=["self-hosted", "cpu"]
    )
    assert _changed(small.provision()) == {host.name: 0}
    done = host.ssh("runnerctl health", check=False)
    assert done.rc == 0, done.stdout
    assert "conda" not in done.stdout
