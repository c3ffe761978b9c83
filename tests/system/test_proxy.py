"""A host whose only way out is a proxy, to servers that only the site's own CA vouches for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from tests.fakes.mirror import Mirror
from tests.fakes.proxy import Authority, Proxy, proxy, tls_front
from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.wheelhouse import wheelhouse
from tests.hosts.world import CONDA_PATH, RUNNER_PATH, World
from tests.system.cut_off import cut_off
from tests.system.site import Site

# This machine's own: a host that asks for it directly finds nobody.
BEHIND = "127.0.0.2"
LABELS = ["self-hosted", "linux", "x64"]
ASK = """python3 - <<'END'
import os, urllib.request
print(urllib.request.urlopen(os.environ['ASKED'], timeout=20).status)
END
"""


@dataclass
class Behind:
    """The site, the proxy before it, and the address of the mirror in TLS."""

    site: Site
    proxy: Proxy
    tls: str


@pytest.fixture(scope="module")
def behind(
    lab: Lab, module_hosts: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Behind]:
    """GitHub and the mirror where the host cannot reach them; the mirror's certificate is the site's."""
    place = tmp_path_factory.mktemp("proxy")
    authority = Authority(place)
    with contextlib.ExitStack() as stack:
        mirror = stack.enter_context(Mirror(place / "mirror", host=BEHIND))
        mirror.add_miniforge()
        mirror.add_wheels(wheelhouse())
        world = stack.enter_context(World.build(BEHIND, mirror))
        front = tls_front(authority.context(BEHIND), BEHIND, urlsplit(mirror.url).port or 0)
        tls = stack.enter_context(front)
        forward = stack.enter_context(proxy(lab.network.gateway))
        host = module_hosts()
        cut_off(host)
        site = Site([host], world, Controller(place / "controller", lab.keys))
        site.variables = {
            "github_runner_download_url": tls + RUNNER_PATH,
            "conda_url": tls + CONDA_PATH,
            "runnerctl_wheelhouse": f"{tls}/wheels/",
            "runnerctl_http_proxy": forward.url,
            "runnerctl_https_proxy": forward.url,
            "runnerctl_no_proxy": ["internal.example.org"],
            "runnerctl_ca_bundle": str(authority.path),
            "github_runner_env": {"ASKED": f"{tls}/wheels/"},
        }
        yield Behind(site, forward, tls)
        assert world.control.violations() == []


def test_a_host_behind_a_proxy_converges(behind: Behind) -> None:
    """Every download goes through the proxy, in TLS that the site's CA vouches for; the runner is online."""
    site = behind.site
    direct = site.host.exec("bash", "-c", f"</dev/tcp/{BEHIND}/{urlsplit(behind.tls).port}", check=False)
    assert direct.rc != 0, "the host has another way out"
    site.provision()
    record = site.record("main")
    assert record is not None and record["status"] == "online"
    assert ("CONNECT", urlsplit(behind.tls).netloc) in behind.proxy.asked
    assert behind.proxy.asked_for(urlsplit(site.world.github.url).netloc)
    assert "ca.pem" in site.shell("cat /var/lib/runnerctl/receipt.json")
    environment = site.shell("systemctl show -p Environment gha-runner@main.service")
    assert "SSL_CERT_FILE=/etc/runnerctl/ca.pem" in environment


def test_the_second_run_changes_nothing(behind: Behind) -> None:
    """Neither on the host nor at GitHub."""
    behind.site.github.clear_requests()
    outcome = behind.site.provision()
    assert outcome.recap[behind.site.host.name].changed == 0, [
        each.data.get("actions") for each in outcome.results if each.status == "changed"
    ]
    assert behind.site.github.counts()[1] == 0


def test_a_job_sees_the_proxy_and_believes_the_sites_ca(behind: Behind) -> None:
    """Its own programs need no setting."""
    asked = len(behind.proxy.asked)
    job = behind.site.job(f"env | grep -i -e proxy -e _CERT -e _CA_ | sort\n{ASK}", labels=LABELS)
    result, log = behind.site.result(job)
    assert result in ("succeeded", "success"), log
    assert f"https_proxy={behind.proxy.url}" in log
    assert "no_proxy=internal.example.org,localhost,127.0.0.1,::1" in log
    assert "NODE_EXTRA_CA_CERTS=/etc/runnerctl/site-ca.pem" in log
    assert "\n200" in log or " 200" in log
    assert ("CONNECT", urlsplit(behind.tls).netloc) in behind.proxy.asked[asked:]


def test_health_asks_through_the_proxy(behind: Behind) -> None:
    """What a runner's jobs get, the verdict's own request gets."""
    report = json.loads(behind.site.host.exec("runnerctl", "health", "-o", "json", check=False).stdout)
    found = {finding["id"]: finding for finding in report["findings"]}["host.api"]
    assert (found["status"], found["data"]["proxy"]) == ("OK", True), found


def test_a_command_on_the_host_needs_no_setting_of_its_own(behind: Behind) -> None:
    """A person who registers there has the way that the runners have."""
    site, asked = behind.site, len(behind.proxy.asked)
    done = site.host.exec("env", f"GH_TOKEN={site.world.token}", "runnerctl", "register", check=False)
    assert done.rc == 0, done.stderr
    github = urlsplit(site.world.github.url).netloc
    assert any(github in target for _, target in behind.proxy.asked[asked:])


def test_without_the_variables_everything_is_as_before(behind: Behind) -> None:
    """The files of authorities and the variables go; deprovision would find nothing of them."""
    site = behind.site
    sound = dict(site.variables)
    kept = {"github_runner_download_url", "conda_url"}
    site.variables = {name: value for name, value in sound.items() if name in kept}
    try:
        site.provision("--tags", "runnerctl")
    finally:
        site.variables = sound
    assert not site.host.exists("/etc/runnerctl/ca.pem") and not site.host.exists(
        "/etc/runnerctl/site-ca.pem"
    )
    assert "ca.pem" not in site.shell("cat /var/lib/runnerctl/receipt.json")
