"""A site's proxies and authorities: what is refused, and what a runner and its jobs are given."""

from __future__ import annotations

import datetime
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils import network
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.receipt import Receipt
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import SlotSpec
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_units import slot_unit_text
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from runnerctl.cli.host_network import BUNDLES, host_network
from runnerctl.core.ca_bundle import certificates, wrong_ca_bundle
from runnerctl.core.environment import CA_FILE, SITE_CA_FILE, slot_environment
from runnerctl.core.spec import HostSpec, host_spec
from runnerctl.github import trust

URL = {"github_runner_url": "https://github.com/acme"}
PROXY = "http://proxy.example.org:3128"


def _spec(**variables: Any) -> HostSpec:
    spec, problems = host_spec("gpu-1", {**URL, **variables})
    assert spec is not None, problems
    return spec


def _ca() -> tuple[str, str]:
    """A certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(start)
    made = builder.not_valid_after(start + datetime.timedelta(days=3650)).sign(key, hashes.SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made.public_bytes(Encoding.PEM).decode(), private.decode()


@pytest.mark.parametrize(
    ("variables", "variable"),
    [
        ({"runnerctl_http_proxy": "proxy:3128"}, "runnerctl_http_proxy"),
        ({"runnerctl_https_proxy": "socks5://proxy:1080"}, "runnerctl_https_proxy"),
        ({"runnerctl_https_proxy": "http://user:secret@proxy:3128"}, "runnerctl_https_proxy"),
        ({"runnerctl_https_proxy": "http://proxy:3128/path"}, "runnerctl_https_proxy"),
        ({"runnerctl_https_proxy": "http://proxy:port"}, "runnerctl_https_proxy"),
        ({"runnerctl_no_proxy": ["https://a"]}, "runnerctl_no_proxy"),
        ({"runnerctl_no_proxy": ["a,b"]}, "runnerctl_no_proxy"),
        ({"runnerctl_ca_bundle": "https://example.org/ca.pem"}, "runnerctl_ca_bundle"),
        ({"runnerctl_bundle": "https://example.org/site.tar.gz"}, "runnerctl_bundle"),
        ({"runnerctl_bundle": "/srv/bundle", "runnerctl_wheelhouse": "/srv/wheels"}, "runnerctl_bundle"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(variables: dict[str, Any], variable: str) -> None:
    """The variable, what is wrong, what to do; a password is never repeated."""
    spec, problems = host_spec("gpu-1", {**URL, **variables})
    assert spec is None
    assert [problem.variable for problem in problems] == [variable]
    assert problems[0].remedy and "secret" not in problems[0].line("gpu-1")


def test_a_runner_and_its_jobs_get_the_proxies() -> None:
    """In lower case; what is on the host itself is reached directly."""
    spec = _spec(
        runnerctl_http_proxy=PROXY,
        runnerctl_https_proxy=PROXY,
        runnerctl_no_proxy=[".example.org", "10.0.0.0/8", "[::1]"],
        conda_manage=False,
    )
    assert slot_environment(spec) == {
        "http_proxy": PROXY,
        "https_proxy": PROXY,
        "no_proxy": ".example.org,10.0.0.0/8,[::1],localhost,127.0.0.1,::1",
    }
    assert slot_environment(_spec(conda_manage=False, runnerctl_no_proxy=["a"])) == {}


def test_what_inventory_gives_itself_wins() -> None:
    """In whichever case: the runner takes lower before upper, and so must not find ours."""
    given = {"HTTPS_PROXY": "http://other:3128", "no_proxy": "b"}
    found = slot_environment(_spec(runnerctl_https_proxy=PROXY, github_runner_env=given, conda_manage=False))
    assert found == given


def test_a_command_on_the_host_goes_the_runners_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a person has set wins; else host.json knows proxies and authorities."""
    monkeypatch.setattr(os, "environ", {})
    spec, file = _spec(runnerctl_https_proxy=PROXY, runnerctl_ca_bundle="/srv/ca.pem"), tmp_path / "ca.pem"
    assert "RUNNERCTL_CA_BUNDLE" not in host_network(spec, {}, ca_file=str(file))
    file.touch()
    found = host_network(spec, {"GH_TOKEN": "x"}, ca_file=str(file))
    assert found["https_proxy"] == PROXY == os.environ["https_proxy"]
    assert found["RUNNERCTL_CA_BUNDLE"] == str(file) and BUNDLES == trust.BUNDLES
    mine = {"HTTPS_PROXY": "http://mine:1", "SSL_CERT_FILE": "/mine", "no_proxy": "x"}
    assert host_network(spec, mine, ca_file=str(file)) == mine


def test_what_replaces_a_list_holds_the_systems_too() -> None:
    """Node adds to its own list, all others replace it."""
    found = slot_environment(_spec(runnerctl_ca_bundle="/srv/ca.pem", conda_manage=False))
    assert found.pop("NODE_EXTRA_CA_CERTS") == SITE_CA_FILE == network.SITE_CA_FILE
    assert set(found.values()) == {CA_FILE} == {network.CA_FILE}
    assert set(network.REPLACED) <= set(found)


def test_the_unit_has_what_the_runners_own_file_cannot_give() -> None:
    """OpenSSL below .NET asks the process's environment; a value can add nothing to the unit."""
    slot = {
        "name": "main",
        "runner_name": "gpu-1-main",
        "url": URL["github_runner_url"],
        "version": "2.336.0",
    }
    odd = '/x%h"\\n'
    text = slot_unit_text(SlotSpec.from_dict({**slot, "env": {"SSL_CERT_FILE": odd, "OTHER": "x"}}))
    assert text.splitlines()[-1] == 'Environment="SSL_CERT_FILE=/x%%h\\"\\\\n"'
    assert "SSL_CERT" not in slot_unit_text(SlotSpec.from_dict(slot)) and "OTHER" not in text


def test_a_ca_bundle_holds_certificates_alone() -> None:
    """Every job can read it."""
    certificate, key = _ca()
    assert wrong_ca_bundle(f"# the site's\n{certificate}") is None
    assert certificates(f"# the site's\r\n{certificate}\nmore\n") == certificate
    assert wrong_ca_bundle(certificate + key) == "holds a private key"
    assert wrong_ca_bundle("nothing") == "holds no certificate in PEM form"
    damaged = certificate.replace("\n", "\nAAAA", 2)
    assert wrong_ca_bundle(damaged) == "holds a certificate that cannot be read"


def test_the_hosts_files_of_authorities_come_and_go(tmp_path: Path) -> None:
    """The system's list and the site's in one; again changes nothing; without a site's both go."""
    root, receipt = str(tmp_path), Receipt(tmp_path / "receipt.json")
    system, site = _ca()[0], _ca()[0]
    store = tmp_path / "etc/ssl/certs/ca-certificates.crt"
    store.parent.mkdir(parents=True)
    store.write_text(system)
    assert len(network.converge_ca(site, receipt, check=True, root=root)) == 2
    assert not (tmp_path / "etc/runnerctl").exists()
    assert len(network.converge_ca(site, receipt, check=False, root=root)) == 2
    assert network.converge_ca(site, receipt, check=False, root=root) == []
    both = tmp_path / "etc/runnerctl/ca.pem"
    assert both.read_text() == system + site
    assert both.with_name("site-ca.pem").read_text() == site
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=str(both))
    assert len(receipt.entries("path")) == 2
    assert len(network.converge_ca(None, receipt, check=False, root=root)) == 2
    assert not both.exists() and receipt.entries("path") == []


def test_a_module_and_all_it_starts_go_the_sites_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of this process; check mode writes no file."""
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    given = {"https_proxy": PROXY, "http_proxy": None, "no_proxy": "a", "ca": _ca()[0]}
    network.use(given, directory=None)
    assert environment == {"https_proxy": PROXY, "no_proxy": "a"} and list(tmp_path.iterdir()) == []
    network.use(given, directory=lambda: str(tmp_path))
    assert environment["SSL_CERT_FILE"] == environment["PIP_CERT"] == str(tmp_path / "ca.pem")
    network.use(None, directory=lambda: pytest.fail("no directory is needed"))
