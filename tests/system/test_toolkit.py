"""Docker and NVIDIA's toolkit on real hosts: real apt and signatures, a real Engine, jobs left alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.mirror import Mirror
from tests.fakes.mirror.apt_repo import AptRepo, Deb, SigningKey
from tests.fakes.mirror.toolkit import NAMES, toolkit_debs
from tests.hosts.controller import Controller, Outcome
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.site import Site

TASK = "Install and configure Docker and the container toolkit"
DAEMON = {"log-opts": {"max-size": "10m"}, "log-driver": "json-file", "data-root": "/var/lib/docker"}
NEW, OLD = "1.19.1-1", "1.17.8-1"


@pytest.fixture(scope="module")
def key() -> Iterator[SigningKey]:
    with SigningKey("NVIDIA's stand-in <nobody@example.org>") as made:
        yield made


@pytest.fixture(scope="module")
def other_key() -> Iterator[SigningKey]:
    with SigningKey("Somebody Else <else@example.org>") as made:
        yield made


@pytest.fixture(scope="module")
def repo(mirror: Mirror, key: SigningKey) -> AptRepo:
    """Two versions of the four packages, in a flat repository laid out as NVIDIA's."""
    top = mirror.root / "libnvidia-container"
    made = AptRepo(top / "stable/deb/amd64", key)
    made.add(*toolkit_debs(OLD, refresh=False), *toolkit_debs(NEW))
    made.publish()
    (top / "gpgkey").write_text(key.public())
    return made


def _variables(mirror: Mirror, key: SigningKey) -> dict[str, Any]:
    return {
        "nvidia_driver_manage": False,
        "container_toolkit_manage": True,
        "container_toolkit_repository_url": (
            f"{mirror.url}/libnvidia-container/stable/{{format}}/{{architecture}}"
        ),
        "container_toolkit_repository_key_fingerprint": key.fingerprint,
        "github_runner_slots": [],
    }


@pytest.fixture(scope="module")
def site(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    repo: AptRepo,
    tmp_path_factory: pytest.TempPathFactory,
) -> Site:
    """A bare Debian 12 host with a daemon.json of its own, whose Engine the first tests install."""
    controller = Controller(Path(tmp_path_factory.mktemp("toolkit")), lab.keys)
    host = module_hosts("tk-docker", variant="bare", docker_volume=True)
    host.put("/etc/docker/daemon.json", json.dumps(DAEMON, indent=4) + "\n", mode=0o640)
    variables = _variables(module_world.mirror, repo.key)
    return Site([host], module_world, controller, {**variables, "container_toolkit_docker": True})


def _toolkit(site: Site, *options: str, **extra: Any) -> Outcome:
    return site.play("provision.yml", "--tags", "container_toolkit", *options, extra=extra)


def _converge(site: Site, *options: str, **extra: Any) -> Outcome:
    outcome = _toolkit(site, *options, **extra)
    assert outcome.rc == 0, outcome.output
    return outcome


def _data(outcome: Outcome) -> dict[str, Any]:
    return dict(outcome.result(TASK).data)


def _everything(host: Host) -> str:
    command = (
        "find /etc /opt /usr /var/lib /root -xdev"
        " -not -path '/var/lib/systemd/*' -not -path '/var/lib/docker/*'"
        " -printf '%p %m %U %s %T@\\n' | sort | sha256sum; dpkg -l | sha256sum; apt-mark showhold"
    )
    return host.exec("sh", "-c", command).stdout


def _engine(host: Host) -> str:
    return host.exec("systemctl", "show", "docker", "-p", "MainPID", "--value").stdout.strip()


def test_check_mode_on_a_bare_host_writes_nothing(site: Site, repo: AptRepo) -> None:
    """It names repository, packages and files; the real run then does that and no less."""
    site.world.mirror.forget_downloads()
    before = _everything(site.host)
    outcome = _converge(site, "--check", "--diff")
    assert _everything(site.host) == before
    assert site.world.mirror.downloads() == {}
    actions = _data(outcome)["actions"]
    assert any("runnerctl-nvidia-container-toolkit.sources" in action for action in actions)
    assert [name for name in NAMES if not any(name in action for action in actions)] == []
    assert "/etc/docker/daemon.json written" in actions
    assert "nvidia-container-runtime" in outcome.output
    assert repo.key.fingerprint in outcome.output


def test_a_bare_host_gets_engine_toolkit_runtime_and_cdi(site: Site) -> None:
    """All four packages of the newest version, held; the Engine started once, with its settings."""
    data = _data(_converge(site))
    host = site.host
    assert data["pending"] == []
    versions = host.exec("dpkg-query", "-W", "-f", "${Package} ${Version}\n", *NAMES).stdout.split("\n")
    assert sorted(filter(None, versions)) == sorted(f"{name} {NEW}" for name in NAMES)
    assert set(NAMES) <= set(host.exec("apt-mark", "showhold").stdout.split())
    assert host.exec("docker", "info", "--format", "{{json .Runtimes}}").stdout.count('"nvidia"') == 1
    config = host.read("/etc/nvidia-container-runtime/config.toml")
    assert "\naccept-nvidia-visible-devices-envvar-when-unprivileged = true\n" in config
    assert 'log-level = "info"' in config
    assert (
        host.exec("systemctl", "is-active", "nvidia-cdi-refresh.path", "docker").stdout.split()
        == ["active"] * 2
    )
    assert host.exists("/etc/udev/rules.d/71-nvidia-dev-char.rules")
    assert "docker.service restarted" not in data["actions"]


def test_an_existing_daemon_json_is_merged(site: Site) -> None:
    """Every key of the user's, in the user's order and indentation; the mode too."""
    text = site.host.read("/etc/docker/daemon.json")
    data = json.loads(text)
    assert list(data)[: len(DAEMON)] == list(DAEMON)
    assert {key: data[key] for key in DAEMON} == DAEMON
    assert data["runtimes"] == {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}
    assert text.startswith('{\n    "log-opts"')
    assert site.host.exec("stat", "-c", "%a", "/etc/docker/daemon.json").stdout.strip() == "640"


def test_the_second_run_changes_nothing_and_asks_the_network_nothing(site: Site) -> None:
    """Also in check mode; the Engine is the same process as before."""
    engine = _engine(site.host)
    before = _everything(site.host)
    site.world.mirror.forget_downloads()
    for options in ((), ("--check", "--diff")):
        outcome = _converge(site, *options)
        assert outcome.recap[site.host.name].changed == 0, _data(outcome)
    assert site.world.mirror.downloads() == {}
    assert _everything(site.host) == before
    assert _engine(site.host) == engine


def test_what_can_be_reloaded_is_reloaded(site: Site) -> None:
    """A runtime that was taken away comes back without a new Engine."""
    engine = _engine(site.host)
    data = json.loads(site.host.read("/etc/docker/daemon.json"))
    del data["runtimes"]
    site.host.put("/etc/docker/daemon.json", json.dumps(data))
    site.host.exec("systemctl", "reload", "docker")
    actions = _data(_converge(site))["actions"]
    assert actions == ["/etc/docker/daemon.json written", "docker.service reloaded"]
    assert '"nvidia"' in site.host.exec("docker", "info", "--format", "{{json .Runtimes}}").stdout
    assert _engine(site.host) == engine


def test_a_restart_waits_for_the_job_and_for_containers(site: Site) -> None:
    """While a slot is busy nothing restarts; the run says so; the next one after the job does it."""
    wish = {"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 4096, "Hard": 4096}}}
    engine = _engine(site.host)
    host = site.host
    host.put("/var/lib/runnerctl/slots/busy.json", "{}")
    unit = (
        "[Service]\nExecStart=/bin/sh -c 'cp /bin/sleep /opt/Runner.Worker; /opt/Runner.Worker 600 & wait'\n"
    )
    host.put("/etc/systemd/system/gha-runner@.service", unit)
    try:
        host.exec("systemctl", "daemon-reload")
        host.exec("systemctl", "start", "gha-runner@busy")
        host.exec("sh", "-c", "until pgrep -x Runner.Worker; do sleep 0.1; done")
        outcome = _converge(site, container_toolkit_docker_config=wish)
        assert "docker.service restarted" not in _data(outcome)["actions"]
        assert "slot busy runs a job" in _data(outcome)["pending"][0]
        assert "slot busy runs a job" in outcome.output
        again = _converge(site, container_toolkit_docker_config=wish)
        assert again.recap[host.name].changed == 0
        assert len(_data(again)["pending"]) == 1
        assert _engine(host) == engine
    finally:
        host.exec("systemctl", "stop", "gha-runner@busy")
        host.exec("rm", "/var/lib/runnerctl/slots/busy.json", "/etc/systemd/system/gha-runner@.service")
        host.exec("systemctl", "daemon-reload")
    predicted = _converge(site, "--check", container_toolkit_docker_config=wish)
    assert _data(predicted)["actions"] == ["docker.service restarted"]
    after = _converge(site, container_toolkit_docker_config=wish)
    assert _data(after)["actions"] == ["docker.service restarted"]
    assert _engine(host) != engine
    assert not host.exists("/var/lib/runnerctl/docker-due.json")


def test_a_container_outlives_the_restart_or_the_restart_waits(site: Site) -> None:
    """No restart while a container would stop; with ``live-restore``, switched on by a reload, it goes on."""
    host = site.host
    files = "bin/sleep lib/x86_64-linux-gnu/libc.so.6 lib64/ld-linux-x86-64.so.2"
    host.exec(
        "sh",
        "-c",
        f"tar -C / -ch {files} | docker import - tiny && docker run -d --name job tiny /bin/sleep 900",
    )
    engine = _engine(host)
    wish = {"max-concurrent-uploads": 2, "default-shm-size": "128M"}
    waits = _converge(site, container_toolkit_docker_config=wish)
    assert "1 containers run" in _data(waits)["pending"][0]
    assert _engine(host) == engine
    goes = _converge(site, container_toolkit_docker_config={**wish, "live-restore": True})
    assert _data(goes)["pending"] == []
    assert _engine(host) != engine
    running = host.exec("docker", "inspect", "job", "--format", "{{.State.Running}} {{.RestartCount}}").stdout
    assert running.split() == ["true", "0"]
    host.exec("docker", "rm", "-f", "job")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"debug": true,}\n', "line 1, column"),
        ('{"debug": 1, "debug": 2}', "'debug' twice"),
        ("[]", "no JSON object"),
    ],
)
def test_a_daemon_json_that_is_none_is_refused_and_kept(site: Site, text: str, message: str) -> None:
    """One line with the place; the file is as it was."""
    good = site.host.read("/etc/docker/daemon.json")
    site.host.put("/etc/docker/daemon.json", text)
    try:
        outcome = _toolkit(site)
        assert outcome.rc != 0
        assert message in outcome.failures()[0].msg
        assert "\n" not in outcome.failures()[0].msg.strip()
        assert site.host.read("/etc/docker/daemon.json") == text
    finally:
        site.host.put("/etc/docker/daemon.json", good, mode=0o640)


def test_a_version_is_pinned_downwards_and_upwards(site: Site) -> None:
    """Held packages change when the spec says so, all four; older ones get a unit of ours for CDI."""
    host = site.host
    for wanted, exact in (("1.17.8", OLD), ("1.19.1", NEW)):
        if wanted == "1.17.8":
            _converge(site, container_toolkit_version=wanted)
            assert host.exec("systemctl", "is-active", "runnerctl-cdi.path").stdout.strip() == "active"
        else:
            _converge(site, container_toolkit_version=wanted)
            assert not host.exists("/etc/systemd/system/runnerctl-cdi.path")
        versions = host.exec("dpkg-query", "-W", "-f", "${Version}\n", *NAMES).stdout.split()
        assert versions == [exact] * 4
        assert set(NAMES) <= set(host.exec("apt-mark", "showhold").stdout.split())
        again = _converge(site, container_toolkit_version=wanted)
        assert again.recap[host.name].changed == 0, _data(again)


def test_deprovision_takes_it_away_when_it_is_named(site: Site) -> None:
    """Without its name nothing of it goes; the user's own daemon.json stays in either case."""
    host = site.host
    outcome = site.play("playbooks/deprovision.yml")
    assert outcome.rc == 0, outcome.output
    assert host.exec("nvidia-ctk", "--version").rc == 0
    host.exec("docker", "volume", "create", "precious")
    outcome = site.play("playbooks/deprovision.yml", extra={"deprovision_container_toolkit": True})
    assert outcome.rc == 0, outcome.output
    left = host.exec(
        "sh", "-c", "dpkg -l | grep -E 'docker|nvidia'; find /etc /run/systemd -name '*runnerctl*'"
    )
    assert left.stdout == ""
    assert host.exists("/var/lib/docker/volumes/precious")
    assert {key: json.loads(host.read("/etc/docker/daemon.json"))[key] for key in DAEMON} == DAEMON
    assert not host.exists("/etc/udev/rules.d/71-nvidia-dev-char.rules")


@pytest.fixture
def plain(site: Site, hosts: Callable[..., Host], repo: AptRepo, tmp_path: Path) -> Site:
    """A fresh host that wants the toolkit alone, without an Engine; the key is a file on the controller."""
    host = hosts("tk-plain", variant="bare")
    (tmp_path / "mirror-key.asc").write_text(repo.key.public())
    key = {"container_toolkit_repository_key": str(tmp_path / "mirror-key.asc")}
    variables = {**site.variables, **key, "container_toolkit_docker": False}
    return Site([host], site.world, site.controller, variables)


def test_repositories_that_cannot_be_trusted(plain: Site, repo: AptRepo, other_key: SigningKey) -> None:
    """One line each, nothing left behind; then the mended repository works at once."""
    cases: list[tuple[Callable[[], None], str]] = [
        (lambda: repo.sign_with(other_key), "signed by another key"),
        (repo.expire, "has expired"),
        (repo.drop_signature, "not signed"),
        (lambda: repo.tamper(toolkit_debs(NEW)[1]), "Hash Sum mismatch"),
    ]
    for fault, message in cases:
        fault()
        outcome = _toolkit(plain)
        assert outcome.rc != 0
        text = outcome.failures()[0].msg
        assert message in text
        assert len(text.strip().splitlines()) == 1
        assert plain.host.exec("dpkg-query", "-W", NAMES[0], check=False).rc != 0
        repo.add(*toolkit_debs(NEW))
        repo.publish()
    wrong = _toolkit(plain, container_toolkit_repository_key_fingerprint=other_key.fingerprint)
    assert "container_toolkit_repository_key_fingerprint" in wrong.failures()[0].msg
    _converge(plain)
    assert plain.host.exec("nvidia-ctk", "--version").rc == 0
    assert not plain.host.exists("/etc/docker/daemon.json")


def test_nobody_elses_package_is_pushed_out(plain: Site, repo: AptRepo) -> None:
    """apt would remove it without a word; check mode says so as well, and holds stay as they were."""
    library = toolkit_debs("1.20.0-1")[-1]
    clashing = dataclasses.replace(library, relations={"Conflicts": "site-tool"})
    repo.add(Deb("site-tool", "1.0-1"), *toolkit_debs("1.20.0-1")[:-1], clashing)
    repo.publish()
    key = {"container_toolkit_repository_key": repo.key.public()}  # as text, this time
    try:
        _converge(plain, container_toolkit_version="1.19.1", **key)
        plain.host.exec("apt-get", "install", "-y", "site-tool")
        for options in (("--check",), ()):
            outcome = _toolkit(plain, *options, container_toolkit_version="1.20.0", **key)
            assert outcome.rc != 0
            assert "container_toolkit: site-tool would be removed for " in outcome.failures()[0].msg
            assert len(outcome.failures()[0].msg.strip().splitlines()) == 1
        assert plain.host.exec("dpkg-query", "-W", "-f", "${Status}", "site-tool").stdout.endswith(
            "installed"
        )
        assert set(NAMES) <= set(plain.host.exec("apt-mark", "showhold").stdout.split())
        plain.host.exec("apt-get", "purge", "-y", "site-tool")
        _converge(plain, container_toolkit_version="1.20.0", **key)
    finally:
        for deb in (Deb("site-tool", "1.0-1"), *toolkit_debs("1.20.0-1")):
            repo.remove(deb)
        repo.publish()


def test_preflight_says_it_all_before_the_first_change(plain: Site, tmp_path: Path) -> None:
    """A key that is none, beside whatever else is wrong with the host."""
    (tmp_path / "page.html").write_text("<html>404</html>")
    before = _everything(plain.host)
    outcome = _toolkit(plain, container_toolkit_repository_key=str(tmp_path / "page.html"))
    assert outcome.rc != 0
    assert outcome.failures()[0].task.startswith("Check spec, host and credential")
    assert "page.html' is no OpenPGP public key; give a public key" in outcome.failures()[0].msg
    assert _everything(plain.host) == before


def test_dpkg_killed_in_the_middle(plain: Site) -> None:
    """The next run finishes what the killed one left."""
    plain.host.put("/root/slow-postinst", "")
    run = plain.start("provision.yml", "--tags", "container_toolkit")
    script = "/var/lib/dpkg/info/nvidia-container-toolkit-base.[p]ostinst"
    plain.host.exec("sh", "-c", f"until pgrep -f {script}; do sleep 0.1; done; pkill -9 -x dpkg", seconds=60)
    plain.host.exec("sh", "-c", f"pkill -9 -f {script}; rm /root/slow-postinst")
    assert run.wait().rc != 0
    assert plain.host.exec("dpkg", "--audit").stdout != ""
    _converge(plain)
    assert _converge(plain).recap[plain.host.name].changed == 0
    assert plain.host.exec("dpkg", "--audit").stdout == ""


def test_a_host_of_others_is_not_even_asked(site: Site) -> None:
    """With ``manage: false`` the task runs no module on the host."""
    outcome = _converge(site, "-vvv", container_toolkit_manage=False)
    result = outcome.result(TASK)
    assert result.data["actions"] == []
    assert (
        "EXEC"
        not in outcome.output.split(f"TASK [runnerctl.gpu_runner.container_toolkit : {TASK}]")[1].split(
            "PLAY RECAP"
        )[0]
    )


def test_an_engine_that_offers_cdi_gets_it(site: Site, hosts: Callable[..., Host]) -> None:
    """Debian 13's Engine (26.1) has CDI, switched off; it is on before the Engine first starts."""
    host = hosts("tk-trixie", suite="trixie", user="admin", docker_volume=True)
    there = Site([host], site.world, site.controller, site.variables)
    data = _data(_converge(there))
    assert json.loads(host.read("/etc/docker/daemon.json"))["features"] == {"cdi": True}
    assert "docker.service restarted" not in data["actions"]
    assert "/etc/cdi" in host.exec("docker", "info", "--format", "{{json .CDISpecDirs}}").stdout
    assert _converge(there).recap[host.name].changed == 0
