"""The test hosts themselves: without them nothing that the other system tests say counts."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.hosts import gpu
from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.image import SUITES, Suite
from tests.hosts.lab import Lab

Hosts = Callable[..., Host]
PLAY = """
- name: Prove that a play runs, changes and reboots
  hosts: runner_hosts
  gather_facts: false
  tasks:
    - name: Write a file
      ansible.builtin.copy: {content: "here", dest: /root/proof, mode: "0600"}
    - name: Reboot
      ansible.builtin.reboot: {reboot_timeout: 60}
      when: reboot | default(false)
"""


@pytest.fixture(scope="module", params=SUITES)
def booted(module_hosts: Hosts, request: pytest.FixtureRequest) -> Host:
    """A host of each suite, shared by the tests of this file."""
    suite: Suite = request.param
    return module_hosts(suite=suite, devices=gpu.devices())


@pytest.fixture
def greeting(lab: Lab) -> Iterator[str]:
    """URL of a server on this machine, at the address that hosts know it by."""

    class Greet(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer anything."""
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer((lab.network.gateway, 0), Greet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{lab.network.gateway}:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_boots_without_a_failed_unit(booted: Host) -> None:
    """systemd is PID 1, has finished, and every unit it wanted is up."""
    assert booted.state() == "running"
    assert booted.read("/proc/1/comm").strip() == "systemd"


def test_is_the_distribution_it_says(booted: Host) -> None:
    """The suite is what the archive delivered, not just a name."""
    assert f"VERSION_CODENAME={booted.suite}" in booted.read("/etc/os-release")


def test_reboots_into_a_new_boot(booted: Host) -> None:
    """A reboot gives a new boot id, empties /run and keeps the disk, the address and the device files."""
    before = booted.boot_id()
    booted.exec("touch", "/run/gone", "/root/kept")
    booted.reboot()
    assert booted.boot_id() != before
    assert not booted.exists("/run/gone")
    assert booted.exists("/root/kept")
    assert booted.ssh("stat -c %t:%T /dev/nvidia0").stdout.strip() == "c3:0"


def test_reaches_a_server_of_this_machine(booted: Host, greeting: str) -> None:
    """Stand-ins listen on the bridge's address; a host must get there."""
    fetch = f"import urllib.request as u; print(u.urlopen('{greeting}', timeout=5).read().decode())"
    assert booted.exec("python3", "-c", fetch).stdout == "hello\n"


def test_installs_packages(booted: Host) -> None:
    """The archive works from inside, names are resolved there, and packages are verified."""
    booted.ssh("sudo apt-get -q update -o APT::Update::Error-Mode=any", seconds=120)
    booted.ssh("sudo apt-get -q install -y --no-install-recommends hostname", seconds=120)
    assert booted.ssh("hostname").stdout.strip() == booted.name


@pytest.mark.parametrize("user", ["root", "admin"])
def test_runs_plays_and_reads_their_results(hosts: Hosts, controller: Controller, user: str) -> None:
    """A play reaches the host with a checked host key; its results and counts arrive, after a reboot too."""
    host = hosts(user=user)
    play = controller.directory / "play.yml"
    play.write_text(PLAY)
    controller.write_inventory([host], {"greeting": "hello"})
    first = controller.run(play, extra={"reboot": True})
    assert first.rc == 0, first.output
    assert first.changed() == ["Write a file", "Reboot"]
    second = controller.run(play, "--check")
    assert (second.rc, second.recap[host.name].changed, second.recap[host.name].skipped) == (0, 0, 1)
    assert second.result("Write a file").status == "ok"


def test_the_bare_variant_lacks_what_ansible_would_like(hosts: Hosts) -> None:
    """Hosts without python3-apt exist; roles have to cope with them."""
    host = hosts(variant="bare")
    assert host.exec("python3", "-c", "import apt", check=False).rc == 1
    assert host.state() == "running"


def test_killed_plays_leave_a_host_that_answers(hosts: Hosts, controller: Controller) -> None:
    """SIGKILL in the middle of a play ends it at once; the host still takes connections."""
    host = hosts()
    play = controller.directory / "play.yml"
    play.write_text(PLAY.replace("ansible.builtin.copy: {content", "ansible.builtin.command: sleep 30 #"))
    controller.write_inventory([host])
    run = controller.start(play)
    run.wait_for("Write a file")
    run.kill()
    assert host.ssh("echo alive").stdout == "alive\n"
    assert run.wait().rc == -9
