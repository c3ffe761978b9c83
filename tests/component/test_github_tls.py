"""Certificates and proxies on a real socket: whom the client believes, and what it says when it does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runnerctl.core.scope import parse_scope
from runnerctl.errors import UnavailableError
from runnerctl.github.auth import TokenCredential
from runnerctl.github.connect import Connector
from runnerctl.github.registry import Registry
from runnerctl.github.trust import BUNDLES, explain_certificate
from tests.fakes.github_api import GithubApi
from tests.fakes.proxy import Authority, proxy

TOKEN = "ghp_tlstest0000000000000000000000000"
HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(Path(tmp_path_factory.mktemp("ca")))


@pytest.fixture(scope="module")
def github(authority: Authority) -> Iterator[GithubApi]:
    """A stand-in that speaks TLS; filled through a plain one beside it."""
    with GithubApi() as plain:
        plain.control.add_token(TOKEN)
        plain.control.add_runners("/orgs/acme", 150)
        secure = GithubApi(tls=authority.context(HOST))
        secure.site = plain.site
        with secure:
            yield secure


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", *BUNDLES):
        monkeypatch.delenv(name, raising=False)


def registry(github: GithubApi, **env: str) -> Registry:
    environment = {"RUNNERCTL_CACHE_DIR": "off", **env}
    connect = Connector(environment, github.url, sleep=lambda _: None)
    client = connect(TokenCredential(TOKEN, source="GH_TOKEN"))
    return Registry(client, parse_scope(f"{github.url}/acme"))


@pytest.mark.parametrize("name", BUNDLES)
def test_a_companys_ca_is_believed_by_each_variable(
    github: GithubApi, authority: Authority, name: str
) -> None:
    assert len(registry(github, **{name: str(authority.path)}).runners()) == 150


def test_an_unknown_ca_is_named_with_what_to_set(github: GithubApi) -> None:
    with pytest.raises(UnavailableError) as error:
        registry(github).runners()
    text = str(error.value)
    assert "TLS failed (certificate verify failed" in text
    assert f"the certificate that is shown for {HOST} was issued by 'Site CA'" in text
    assert "set RUNNERCTL_CA_BUNDLE" in text


def test_a_proxy_that_opens_tls_is_called_that(
    github: GithubApi, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a name of GitHub's, through a proxy: here the proxy is told to lead it to ourselves."""
    assert authority.path.exists()
    monkeypatch.setattr("runnerctl.github.trust._certificate", lambda url: _shown(github, url))
    text = explain_certificate("https://api.github.com/user")
    assert "something between here and there opens TLS" in text


def _shown(github: GithubApi, url: str) -> bytes:
    import ssl

    assert url.startswith("https://api.github.com/")
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((HOST, github.port)))


def test_through_a_proxy_and_around_it(
    github: GithubApi, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(HOST) as through:
        monkeypatch.setenv("HTTPS_PROXY", through.url)
        made = registry(github, RUNNERCTL_CA_BUNDLE=str(authority.path))
        assert len(made.runners()) == 150
        assert through.asked_for(f"{HOST}:{github.port}")
        with pytest.raises(
            UnavailableError, match=r"TLS failed through the proxy 127\.0\.0\.1:\d+ .*Site CA"
        ):
            registry(github).runners()
        through.asked.clear()
        monkeypatch.setenv("NO_PROXY", HOST)
        assert len(registry(github, RUNNERCTL_CA_BUNDLE=str(authority.path)).runners()) == 150
        assert through.asked == []


def test_a_proxy_that_is_down_is_named_without_its_password(
    github: GithubApi, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hidden-word@127.0.0.1:9")
    with pytest.raises(UnavailableError, match=r"the proxy 127\.0\.0\.1:9 did not answer") as error:
        registry(github, RUNNERCTL_CA_BUNDLE=str(authority.path)).runners()
    assert "hidden-word" not in str(error.value)
