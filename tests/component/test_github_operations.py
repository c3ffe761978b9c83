"""Labels, groups, settings and Apps against the stand-in, which judges by GitHub's description."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from runnerctl.core.scope import Scope, api_url_for, parse_scope
from runnerctl.core.spec import host_spec
from runnerctl.errors import AccessError, ConfigError
from runnerctl.github.auth import credentials
from runnerctl.github.connect import Connector
from runnerctl.github.registry import Registry
from runnerctl.reconcile import Fleet
from tests.fakes.github_api import Control, GithubApi

TOKEN = "ghp_operations0000000000000000000000"
SCOPES = {
    "acme": "/orgs/acme",
    "acme/widgets": "/repos/acme/widgets",
    "enterprises/acme": "/enterprises/acme",
}
RIGHTS = {
    "organization_self_hosted_runners": "write",
    "administration": "write",
    "enterprise_self_hosted_runners": "write",
}


@pytest.fixture(scope="module")
def github() -> Iterator[GithubApi]:
    with GithubApi() as server:
        yield server


@pytest.fixture
def control(github: GithubApi) -> Iterator[Control]:
    desk = github.control
    desk.reset()
    desk.add_token(TOKEN)
    yield desk
    assert desk.violations() == []


def registry_at(github: GithubApi, path: str, *, token: str = TOKEN) -> Registry:
    scope = parse_scope(f"{github.url}/{path}")
    env = {"GH_TOKEN": token, "RUNNERCTL_CACHE_DIR": "off"}
    connect = Connector(env, github.url, sleep=lambda _: None)
    return Registry(connect(credentials(env, api_url=github.url, scope=scope, connect=connect)), scope)


@pytest.mark.parametrize("path", SCOPES)
def test_labels_of_every_scope(github: GithubApi, control: Control, path: str) -> None:
    registry = registry_at(github, path)
    runner_id = int(control.add_runner(SCOPES[path], "box-a", labels=["gpu"])["id"])
    assert registry.add_labels(runner_id, ["A100", "gpu"]) == {"a100", "gpu"}
    assert {label.name for label in registry.labels(runner_id)} >= {"self-hosted", "gpu", "A100"}
    assert registry.remove_label(runner_id, "a100") is True
    assert registry.remove_label(runner_id, "a100") is False
    with pytest.raises(ConfigError, match="GitHub keeps the label self-hosted"):
        registry.remove_label(runner_id, "self-hosted")
    assert registry.set_labels(runner_id, ["x/y", "b c"]) == {"x/y", "b c"}
    assert registry.remove_label(runner_id, "x/y") is True
    assert registry.clear_labels(runner_id) == frozenset()
    assert registry.clear_labels(999_999) == frozenset()


@pytest.mark.parametrize(("path", "member"), [("acme", "acme/widgets"), ("enterprises/acme", "acme")])
def test_groups_of_an_organisation_and_an_enterprise(
    github: GithubApi, control: Control, path: str, member: str
) -> None:
    registry = registry_at(github, path)
    numbers = github.site.store
    number = numbers.repository_id(member) if "/" in member else numbers.owner_id(member)
    made = registry.create_group("gpus", selected_repository_ids=[number], allows_public_repositories=True)
    assert (made.name, made.visibility, made.allows_public_repositories) == ("gpus", "selected", True)
    assert [found.name for found in registry.group_repositories(made.id)] == [member]
    runner_id = int(control.add_runner(SCOPES[path], "box-a")["id"])
    registry.move_to_group(runner_id, made.id)
    assert [runner.name for runner in registry.group_runners(made.id)] == ["box-a"]
    groups = {group.name: group for group in registry.groups()}
    assert groups["Default"].default
    assert not groups["gpus"].restricted_to_workflows
    with pytest.raises(ConfigError, match="does not create the runner group 'gpus'"):
        registry.create_group("gpus", visibility="all")
    assert registry.create_group("open", visibility="all").visibility == "all"


def test_a_repository_has_no_groups(github: GithubApi, control: Control) -> None:
    registry = registry_at(github, "acme/widgets")
    calls: list[Callable[[], object]] = [
        lambda: registry.create_group("x"),
        lambda: registry.group_runners(1),
        lambda: registry.group_repositories(1),
        lambda: registry.move_to_group(1, 1),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="a repository has no runner groups"):
            call()
    assert control.counts() == (0, 0)


@pytest.mark.parametrize("path", SCOPES)
def test_settings_that_a_doctor_asks_for(github: GithubApi, control: Control, path: str) -> None:
    registry = registry_at(github, path)
    kind = registry.scope.kind
    settings, approval, repository = (
        registry.self_hosted_settings(),
        registry.fork_approval(),
        registry.repository(),
    )
    assert (settings.enabled_repositories if settings else None) == (
        "all" if kind == "organization" else None
    )
    expected = None if kind == "enterprise" else "first_time_contributors"
    assert (approval.approval_policy if approval else None) == expected
    assert (repository.full_name if repository else None) == (path if kind == "repository" else None)
    assert not (repository and repository.public)
    before, after = registry.rate_limit()["core"], registry.rate_limit()["core"]
    assert before.remaining == after.remaining
    assert control.counts()[1] == 0


def test_a_weak_token_learns_what_each_operation_needs(github: GithubApi, control: Control) -> None:
    weak = control.add_token("github_pat_weak00000000000", permissions={"metadata": "read"})
    organisation, repository = (registry_at(github, path, token=weak) for path in ("acme", "acme/widgets"))
    wanted: list[tuple[Callable[[], object], str]] = [
        (lambda: organisation.add_labels(1, ["x"]), "Self-hosted runners: write"),
        (lambda: organisation.create_group("x"), "Self-hosted runners: write"),
        (lambda: organisation.group_runners(1), "Self-hosted runners: read"),
        (organisation.self_hosted_settings, "Administration: read"),
        (organisation.fork_approval, "Administration: read"),
        (repository.fork_approval, "Administration: read"),
        (lambda: repository.remove_label(1, "x"), "Administration: write"),
        (lambda: repository.delete(1), "Administration: write"),
    ]
    for call, permission in wanted:
        with pytest.raises(AccessError, match=f"'{permission}'"):
            call()


# --- Apps ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def app_env(control: Control, key: rsa.RSAPrivateKey, tmp_path: Path) -> dict[str, str]:
    """An App with 150 installations elsewhere before the two on ``acme``; its tokens kept on disk."""
    encoding = serialization.Encoding.PEM
    public = key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    installed = [{"id": number, "account": f"other-{number}", "permissions": RIGHTS} for number in range(150)]
    installed.append({"id": 771, "account": "acme", "permissions": RIGHTS})
    installed.append({"id": 772, "account": "acme", "type": "Enterprise", "permissions": RIGHTS})
    control.add_app(1234, public_key=public.decode(), installations=installed)
    path = tmp_path / "app.pem"
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(key.private_bytes(encoding, *form))
    path.chmod(0o600)
    cache = {"RUNNERCTL_CACHE_DIR": str(tmp_path / "cache")}
    return {"RUNNERCTL_APP_ID": "1234", "RUNNERCTL_APP_KEY_FILE": str(path), **cache}


def app_registry(github: GithubApi, env: dict[str, str], path: str) -> Registry:
    scope: Scope = parse_scope(f"{github.url}/{path}")
    connect = Connector(env, github.url, sleep=lambda _: None)
    return Registry(connect(credentials(env, api_url=github.url, scope=scope, connect=connect)), scope)


@pytest.mark.parametrize("path", SCOPES)
def test_a_second_process_mints_no_token(
    github: GithubApi, control: Control, app_env: dict[str, str], path: str
) -> None:
    for writes in (1, 0):
        control.clear_requests()
        assert app_registry(github, app_env, path).runners() == ()
        assert control.counts()[1] == writes
    cache = Path(app_env["RUNNERCTL_CACHE_DIR"])
    assert not [name for name in cache.iterdir() if "ghs_" in name.name]
    assert all(file.stat().st_mode & 0o077 == 0 for file in cache.iterdir())


@pytest.mark.parametrize("path", SCOPES)
def test_the_installation_is_found_to_the_end_of_the_list(
    github: GithubApi, control: Control, app_env: dict[str, str], path: str
) -> None:
    """The scope's own question is answered 404: the walk takes both pages."""
    control.fault("hidden", path="/installation$")
    assert app_registry(github, app_env, path).runners() == ()
    assert len(control.requests(path="/app/installations", method="GET")) == 2


def test_a_renamed_repository_still_leads_to_its_installation(
    github: GithubApi, control: Control, app_env: dict[str, str]
) -> None:
    control.fault("rename", from_="/repos/acme/old", to="/repos/acme/widgets")
    assert app_registry(github, app_env, "acme/old").runners() == ()


def test_a_token_that_ends_between_two_pages_is_renewed(
    github: GithubApi, control: Control, app_env: dict[str, str]
) -> None:
    control.add_runners("/orgs/acme", 250)
    registry = app_registry(github, app_env, "acme")
    control.fault("expired_token", path="/actions/runners$", skip=1, count=1)
    assert len(registry.runners()) == 250
    assert control.counts()[1] == 2, "two mintings"


def test_minting_is_counted(github: GithubApi, control: Control, app_env: dict[str, str]) -> None:
    given = {"github_runner_url": f"{github.url}/acme/widgets", "github_runner_slots": [{"name": "a"}]}
    spec, problems = host_spec("h1", given)
    assert spec is not None, problems
    fleet = Fleet(spec, app_env)
    fleet.plans({})
    assert fleet.calls() == {"requests": 3, "writes": 1}
    assert control.counts() == (3, 1)


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("https://github.com/acme", "https://api.github.com"),
        ("https://acme.ghe.com/acme", "https://api.acme.ghe.com"),
        ("https://ghes.example/acme", "https://ghes.example/api/v3"),
    ],
)
def test_the_api_of_each_kind_of_github(url: str, api: str) -> None:
    assert api_url_for(url) == api
    assert Connector({"RUNNERCTL_CACHE_DIR": "off"}, api)(None).api_url == api
