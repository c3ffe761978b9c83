"""The GitHub client over real sockets, against the stand-in that holds it to GitHub's own description."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from runnerctl.core.scope import Scope, parse_scope
from runnerctl.errors import AccessError, ConfigError, TryAgainError, UnavailableError
from runnerctl.github.auth import TokenCredential, credentials
from runnerctl.github.client import GitHubClient
from runnerctl.github.registry import Registry
from tests.fakes.github_api import Control, GithubApi

ORG = "/orgs/acme"
TOKEN = "ghp_component000000000000000000000000"


@pytest.fixture(scope="module")
def github() -> Iterator[GithubApi]:
    with GithubApi() as server:
        yield server


@pytest.fixture()
def control(github: GithubApi) -> Iterator[Control]:
    """The desk, empty; every test ends with no breach of GitHub's description by the client."""
    desk = github.control
    desk.reset()
    desk.add_token(TOKEN)
    yield desk
    assert desk.violations() == []


class Connection:
    """A registry of one scope; ``slept`` holds the pauses that were asked for and not made."""

    def __init__(
        self, url: str, scope: Scope, *, prefix: str = "", token: str = TOKEN, **options: Any
    ) -> None:
        self.slept: list[float] = []
        self.client = GitHubClient(
            url + prefix, TokenCredential(token, source="GH_TOKEN"), sleep=self.slept.append, **options
        )
        self.registry = Registry(self.client, scope)


@pytest.fixture()
def acme(github: GithubApi, control: Control) -> Connection:
    assert control.url == github.url
    return Connection(github.url, parse_scope(f"{github.url}/acme"))


def test_a_thousand_runners_take_ten_calls_and_then_none_that_counts(
    control: Control, acme: Connection
) -> None:
    control.add_runners(ORG, 1000)
    assert len({runner.id for runner in acme.registry.runners()}) == 1000
    assert len(acme.client.calls) == 10
    assert len(acme.registry.runners()) == 1000
    assert {call.status for call in acme.client.calls[10:]} == {304}


def test_items_that_shift_are_not_lost(control: Control, acme: Connection) -> None:
    control.add_runners(ORG, 250)
    control.fault("item_shift", count=2)
    names = [runner.name for runner in acme.registry.runners()]
    assert len(names) == len(set(names))
    assert set(names) == {runner["name"] for runner in control.runners(ORG)}


@pytest.mark.parametrize("prefix", ["", "/api/v3"])
def test_the_life_of_a_runner(github: GithubApi, control: Control, prefix: str) -> None:
    made = Connection(github.url, parse_scope(f"{github.url}/acme"), prefix=prefix).registry
    group = control.add_group(ORG, "gpu")
    record = control.add_runner(ORG, "box-gpu0", labels=["gpu"])
    found = made.runner_by_name("box-gpu0")
    assert found is not None
    assert found == made.runner(found.id)
    assert found.id == record["id"]
    assert found.custom_labels() == {"gpu"}
    assert made.set_labels(found.id, ["gpu", "a100"]) == {"gpu", "a100"}
    assert made.group_id("gpu") == group["id"]
    made.move_to_group(found.id, group["id"])
    moved = made.runner(found.id)
    assert moved is not None
    assert moved.runner_group_id == group["id"]
    assert moved.custom_labels() == {"gpu", "a100"}
    assert made.set_labels(found.id, []) == frozenset()
    assert made.delete(found.id) is True
    assert made.delete(found.id) is False
    assert made.runner(found.id) is None


@pytest.mark.parametrize("path", ["acme", "acme/widgets", "enterprises/acme"])
def test_tokens_and_downloads_of_every_scope(github: GithubApi, control: Control, path: str) -> None:
    made = Connection(github.url, parse_scope(f"{github.url}/{path}")).registry
    sum_ = "5" * 64
    control.release("2.340.0", sha256=sum_, download_url=f"{github.url}/runner.tar.gz")
    assert made.registration_token().token in control.secrets()
    assert made.remove_token().token in control.secrets()
    download = next(item for item in made.downloads() if (item.os, item.architecture) == ("linux", "x64"))
    assert (download.version, download.sha256_checksum) == ("2.340.0", sum_)
    assert made.release_digest(download.version, download.filename) == sum_
    known = made.deprecations("2.340.0")
    assert known is not None
    assert known.runner_version == "2.340.0"
    assert made.deprecations("1.0.0") is None


def test_a_busy_runner_is_not_deleted(control: Control, acme: Connection) -> None:
    record = control.add_runner(ORG, "busy", busy=True)
    with pytest.raises(TryAgainError, match="drain it first"):
        acme.registry.delete(record["id"])


@pytest.mark.parametrize(
    ("fault", "pause"),
    [
        ({"name": "retry_after", "retry_after": 3}, 3.0),
        ({"name": "too_many", "retry_after": 2}, 2.0),
        ({"name": "too_many", "retry_after": 0}, 60.0),
        ({"name": "secondary"}, 60.0),
        ({"name": "rate_limited", "reset_in": 40}, 39.0),
        ({"name": "server_error"}, 1.0),
        ({"name": "bad_gateway_html"}, 1.0),
        ({"name": "lost_answer"}, 1.0),
        ({"name": "drop"}, 1.0),
    ],
)
def test_a_bad_moment_is_waited_out(
    control: Control, acme: Connection, fault: dict[str, Any], pause: float
) -> None:
    control.add_runner(ORG, "box-gpu0")
    control.fault(**fault)
    assert len(acme.registry.runners()) == 1
    assert len(acme.slept) == 1
    assert pause <= acme.slept[0] < pause + 2.5
    assert acme.registry.registration_token().token


def test_a_long_limit_ends_with_its_time(control: Control, acme: Connection) -> None:
    control.fault("rate_limited", reset_in=3000)
    with pytest.raises(TryAgainError, match=r"used up until 20\d\d-"):
        acme.registry.runners()
    assert acme.slept == []


def test_a_server_that_stays_down_is_one_clear_error(control: Control, acme: Connection) -> None:
    control.fault("down", mode="drop")
    with pytest.raises(UnavailableError, match="cannot mint a registration token") as error:
        acme.registry.registration_token()
    assert "127.0.0.1" in str(error.value)
    assert len(acme.client.calls) == 5
    control.clear_faults()
    assert acme.registry.registration_token().token


@pytest.mark.exhaustive
def test_a_slow_body_meets_the_deadline(github: GithubApi, control: Control) -> None:
    control.add_runners(ORG, 100)
    control.fault("slow_body", seconds=20.0, count=None)
    made = Connection(github.url, parse_scope(f"{github.url}/acme"), deadline_seconds=1.0)
    start = time.monotonic()
    with pytest.raises(UnavailableError):
        made.registry.runners()
    assert time.monotonic() - start < 5.0


def test_a_renamed_repository_is_followed_for_reading(github: GithubApi, control: Control) -> None:
    control.add_runner("/repos/acme/new", "box-gpu0")
    control.fault("rename", from_="/repos/acme/old", to="/repos/acme/new")
    made = Connection(github.url, parse_scope(f"{github.url}/acme/old")).registry
    assert [runner.name for runner in made.runners()] == ["box-gpu0"]
    with pytest.raises(UnavailableError, match="was renamed"):
        made.registration_token()


def test_a_next_page_on_another_host_gets_no_credential(control: Control, acme: Connection) -> None:
    control.add_runners(ORG, 150)
    control.fault("foreign_link")
    with pytest.raises(AccessError, match=r"evil\.example"):
        acme.registry.runners()


def test_an_unsupported_version_header_is_dropped(control: Control, acme: Connection) -> None:
    control.fault("unsupported_version")
    assert acme.registry.runners() == ()
    assert [call.status for call in acme.client.calls] == [400, 200]


def test_an_older_servers_runner(control: Control, acme: Connection) -> None:
    control.add_runner(ORG, "box-gpu0")
    control.fault("missing_ephemeral")
    (runner,) = acme.registry.runners()
    assert (runner.ephemeral, runner.version) == (None, None)


def test_single_sign_on(control: Control, acme: Connection) -> None:
    control.fault("sso")
    with pytest.raises(AccessError, match="single sign-on"):
        acme.registry.runners()


def test_a_dead_a_weak_and_a_blind_token(github: GithubApi, control: Control) -> None:
    scope = parse_scope(f"{github.url}/acme")
    control.add_token("ghp_weak0000", scopes=["repo"])
    with pytest.raises(AccessError, match="'admin:org' of a classic token"):
        Connection(github.url, scope, token="ghp_weak0000").registry.registration_token()
    with pytest.raises(AccessError, match="expired or revoked"):
        Connection(github.url, scope, token="ghp_unknown0").registry.registration_token()
    control.fault("hidden")
    with pytest.raises(AccessError, match="absent or no permission"):
        Connection(github.url, scope).registry.runners()


def test_no_group_of_that_name(control: Control, acme: Connection) -> None:
    control.add_group(ORG, "gpu")
    with pytest.raises(ConfigError, match=r"no runner group 'cpu'; it has .*gpu"):
        acme.registry.group_id("cpu")


def test_connections_are_used_again(control: Control, acme: Connection) -> None:
    """Reading a body piece by piece must give the connection back."""
    control.add_runners(ORG, 300)
    acme.registry.runners()
    adapter: Any = acme.client._session.get_adapter(acme.client.api_url)
    pools = adapter.poolmanager.pools
    (pool,) = [pools[key] for key in list(pools.keys())]
    assert pool.num_connections == 1
    assert len(acme.client.calls) == 3


# --- a GitHub App ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture()
def app_env(control: Control, key: rsa.RSAPrivateKey, tmp_path: Path) -> dict[str, str]:
    """An App installed on ``acme``, and the environment that names it."""
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    permissions = {"organization_self_hosted_runners": "write", "administration": "write"}
    installations = [{"id": 77, "account": "acme", "permissions": permissions}]
    control.add_app(1234, public_key=public.decode(), client_id="Iv23component", installations=installations)
    path = tmp_path / "app.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    path.chmod(0o600)
    return {"RUNNERCTL_APP_ID": "1234", "RUNNERCTL_APP_KEY_FILE": str(path)}


@pytest.mark.parametrize("app_id", ["1234", "Iv23component"])
@pytest.mark.parametrize("path", ["acme", "acme/widgets"])
def test_an_app_registers_runners(github: GithubApi, app_env: dict[str, str], app_id: str, path: str) -> None:
    scope = parse_scope(f"{github.url}/{path}")
    credential = credentials({**app_env, "RUNNERCTL_APP_ID": app_id}, api_url=github.url, scope=scope)
    client = GitHubClient(github.url, credential)
    assert Registry(client, scope).registration_token().token
    assert credential is not None
    wanted = "administration" if "/" in path else "organization_self_hosted_runners"
    info = credential.describe(client)
    assert info.permissions[wanted] == "write"
    assert info.expires_at is not None


def test_a_revoked_installation_token_is_minted_again(
    github: GithubApi, control: Control, app_env: dict[str, str]
) -> None:
    scope = parse_scope(f"{github.url}/acme")
    credential = credentials(app_env, api_url=github.url, scope=scope)
    assert credential is not None
    registry = Registry(GitHubClient(github.url, credential), scope)
    assert registry.runners() == ()
    first = credential.token()
    control.expire_token(first)
    assert registry.registration_token().token
    assert credential.token() != first


def test_an_app_that_is_not_installed_there(github: GithubApi, app_env: dict[str, str]) -> None:
    scope = parse_scope(f"{github.url}/stranger")
    credential = credentials(app_env, api_url=github.url, scope=scope)
    with pytest.raises(AccessError, match="is not installed on stranger"):
        Registry(GitHubClient(github.url, credential), scope).runners()


def test_an_app_with_a_wrong_clock(github: GithubApi, control: Control, app_env: dict[str, str]) -> None:
    control.fault("clock_skew")
    scope = parse_scope(f"{github.url}/acme")
    credential = credentials(app_env, api_url=github.url, scope=scope)
    with pytest.raises(AccessError, match="set the clock"):
        Registry(GitHubClient(github.url, credential), scope).runners()
