"""``doctor`` against the GitHub stand-in: a healthy scope is OK, each fault its finding and no other."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from runnerctl.cli.context import Context
from runnerctl.cli.inventory import Resolved
from runnerctl.cli.main import run
from runnerctl.core.labels import DRAINED
from tests.component.cli_support import TOKEN, Ran, host_json
from tests.fakes.github_api import GithubApi

ORG, REPOSITORY = "/orgs/acme", "/repos/acme/widgets"
NEW, OLD = "2.337.0", "2.335.1"
DAY = 86400.0


@pytest.fixture(scope="module")
def server() -> Iterator[GithubApi]:
    """One stand-in for this file."""
    with GithubApi() as github:
        yield github


@pytest.fixture
def github(server: GithubApi) -> GithubApi:
    """A healthy organisation with two runners, and a repository with one."""
    control = server.control
    control.reset()
    control.clear_faults()
    control.add_token(TOKEN, scopes=["admin:org"])
    control.release(NEW, published_at=stamp(-3))
    for name in ("a-main", "b-main"):
        control.add_runner(ORG, name, labels=[], status="online", version=NEW)
    control.add_runner(REPOSITORY, "r-main", labels=[], status="online", version=NEW)
    return server


def stamp(days: float) -> str:
    """So many days from now, RFC 3339."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + days * DAY))


def ask(github: GithubApi, *options: str, env: dict[str, str] | None = None, url: str = "/acme") -> Ran:
    """Run it as JSON on the real clock; the answer breaks no rule of GitHub's description."""
    out, err = io.StringIO(), io.StringIO()
    where = [] if "-i" in options else ["--url", f"{github.url}{url}"]
    variables = {"GH_TOKEN": TOKEN} if env is None else env
    code = run(["doctor", "-o", "json", *where, *options], Context(variables, out, err))
    assert github.control.violations() == []
    return Ran(code, out.getvalue(), err.getvalue())


def bad(ran: Ran) -> dict[str, str]:
    """Finding -> status, of all that are not OK."""
    return {each["id"]: each["status"] for each in ran.json["findings"] if each["status"] != "OK"}


def test_a_healthy_organisation_is_ok(github: GithubApi) -> None:
    """Exit code 0, and nothing was written."""
    ran = ask(github)
    assert (ran.code, bad(ran), ran.json["status"]) == (0, {}, "OK"), ran.out
    assert ran.json["schema"] == "runnerctl.doctor/1"
    assert github.control.counts()[1] == 0
    assert TOKEN not in ran.out


def test_a_healthy_repository_is_ok(github: GithubApi) -> None:
    """A private repository, by a token that may no more."""
    token = github.control.add_token("ghp_" + "repositorytoken00", scopes=["repo"])
    ran = ask(github, url="/acme/widgets", env={"GH_TOKEN": token})
    assert (ran.code, bad(ran)) == (0, {}), ran.out


def _token(github: GithubApi, name: str, **rights: Any) -> dict[str, str]:
    return {"GH_TOKEN": github.control.add_token(name + "sometokenofatest0", **rights)}


def _classic(*scopes: str, days: float | None = None) -> Callable[[GithubApi], dict[str, str]]:
    ends = None if days is None else time.time() + days * DAY
    return lambda github: _token(github, "ghp_", scopes=list(scopes), expires_at=ends)


def _fine(**permissions: str) -> Callable[[GithubApi], dict[str, str]]:
    return lambda github: _token(github, "github_pat_", permissions=permissions)


READS = {"organization_self_hosted_runners": "read", "organization_administration": "read"}
UNKNOWN = {"GH_TOKEN": "ghp_" + "neverheardofit000"}
JOB = {"GITHUB_TOKEN": "ghs_" + "jobtokenofarun000", "GITHUB_ACTIONS": "true"}
WRITES = {**READS, "organization_self_hosted_runners": "write"}


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("credential", "options", "found", "words"),
    [
        (_classic("read:org"), [], {"github.permissions": "CRITICAL"}, "admin:org"),
        (_classic("admin:org", "repo", "delete_repo"), [], {"github.excess": "WARNING"}, "delete_repo, repo"),
        (_classic("admin:org", "read:user", "write:org"), [], {}, ""),
        (_classic("admin:org", days=5.5), [], {"github.credential_expiry": "WARNING"}, "in 5 days"),
        (_classic("admin:org", days=60), [], {}, ""),
        (_fine(**WRITES), [], {"github.permissions": "UNKNOWN"}, "not proven"),
        (_fine(**WRITES), ["--prove"], {}, ""),
        (_fine(**READS), ["--prove"], {"github.permissions": "CRITICAL"}, "read and not write"),
        (_fine(members="read"), [], {"github.permissions": "CRITICAL"}, "Self-hosted runners: read"),
        (
            lambda _: {"GH_TOKEN": "ghp_" + "neverheardofit000"},
            [],
            {"github.credential": "CRITICAL"},
            "expired",
        ),
        (
            lambda _: {"GITHUB_TOKEN": "ghs_" + "jobtokenofarun000", "GITHUB_ACTIONS": "true"},
            [],
            {"github.credential": "CRITICAL"},
            "can never manage runners",
        ),
    ],
)
def test_a_credential_is_judged(
    github: GithubApi,
    credential: Callable[[GithubApi], dict[str, str]],
    options: list[str],
    found: dict[str, str],
    words: str,
) -> None:
    """Too little, too much, soon over, not proven: what is missing is named, and nothing else is bad."""
    ran = ask(github, *options, env=credential(github))
    assert bad(ran) == found, ran.out
    assert words in ran.out
    assert ran.code == {"CRITICAL": 2, "WARNING": 1, "UNKNOWN": 3}.get(next(iter(found.values()), ""), 0)


def _set(path: str, **body: Any) -> Callable[[GithubApi], None]:
    return lambda github: github.control.document(path, body)


def _public(github: GithubApi) -> None:
    """The repository as it is, but public."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    body = requests.get(f"{github.url}{REPOSITORY}", headers=headers, timeout=10).json()
    github.control.document(REPOSITORY, {**body, "private": False, "visibility": "public"})
    policy = {"approval_policy": "all_external_contributors"}
    github.control.document(f"{REPOSITORY}/actions/permissions/fork-pr-contributor-approval", policy)


def _group(*, ours: bool, **fields: Any) -> Callable[[GithubApi], None]:
    def make(github: GithubApi) -> None:
        group = github.control.add_group(ORG, "open", **fields)["id"]
        if ours:
            runner = github.control.runner(ORG, "a-main")
            assert runner is not None
            github.control.change_runner(runner["id"], group_id=group)
        policy = {"approval_policy": "all_external_contributors"}
        github.control.document(f"{ORG}/actions/permissions/fork-pr-contributor-approval", policy)

    return make


def _weak_approval(github: GithubApi) -> None:
    _group(ours=False, visibility="selected", allows_public_repositories=True)(github)
    policy = {"approval_policy": "first_time_contributors"}
    github.control.document(f"{ORG}/actions/permissions/fork-pr-contributor-approval", policy)


def _version(**dates: str) -> Callable[[GithubApi], None]:
    def change(github: GithubApi) -> None:
        github.control.release(OLD, published_at=stamp(-90), **dates)
        github.control.release(NEW, published_at=stamp(-3))
        for runner in github.control.runners(ORG):
            github.control.change_runner(runner["id"], version=OLD)

    return change


def _fault(name: str, **fields: Any) -> Callable[[GithubApi], Any]:
    return lambda github: github.control.fault(name, count=None, **fields)


def _no_dates(version: str) -> Callable[[GithubApi], None]:
    """GitHub does not answer for versions; the releases are known."""

    def change(github: GithubApi) -> None:
        _version()(github)
        for runner in github.control.runners(ORG):
            github.control.change_runner(runner["id"], version=version)
        _fault("status", path="/deprecations/", status=403)(github)

    return change


def _enterprise_server(version: str) -> Callable[[GithubApi], None]:
    """A server that knows neither dates nor releases, and offers the newest version."""

    def change(github: GithubApi) -> None:
        _no_dates(version)(github)
        github.control.clear_faults()
        github.control.release(NEW, sha256="0" * 64, download_url=f"{github.url}/{NEW}.tar.gz")
        github.control.fault("hidden", path="/deprecations/|/repos/actions/runner")

    return change


def _offline(*names: str) -> Callable[[GithubApi], None]:
    def change(github: GithubApi) -> None:
        for runner in github.control.runners(ORG):
            if runner["name"] in names:
                github.control.change_runner(runner["id"], status="offline")

    return change


SETTINGS = f"{ORG}/actions/permissions/self-hosted-runners"
OPEN = {"allows_public_repositories": True, "visibility": "selected"}
NAMED = {**OPEN, "restricted_to_workflows": True, "selected_workflows": ["acme/w/.github/x.yml@v1"]}


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (_set(SETTINGS, enabled_repositories="none"), {"github.policy": "CRITICAL"}),
        (_set(SETTINGS, enabled_repositories="selected"), {}),
        (_group(ours=True, **OPEN), {"github.public": "CRITICAL"}),
        (_group(ours=False, **OPEN), {"github.public": "WARNING"}),
        (
            _group(
                ours=True,
                restricted_to_workflows=True,
                selected_workflows=["acme/w/.github/x.yml@v1"],
                **OPEN,
            ),
            {"github.public": "WARNING"},
        ),
        (_group(ours=True, visibility="all"), {"github.groups": "WARNING"}),
        (_group(ours=True, visibility="selected"), {}),
        (_weak_approval, {"github.public": "WARNING", "github.fork_approval": "WARNING"}),
        (_version(runtime_deprecates_at=stamp(-1)), {"github.expiry": "CRITICAL"}),
        (_version(runtime_deprecates_at=stamp(9)), {"github.expiry": "WARNING"}),
        (_version(runtime_deprecates_at=stamp(40)), {}),
        (
            _version(runtime_deprecates_at=stamp(40), registration_deprecates_at=stamp(-2)),
            {"github.expiry": "WARNING"},
        ),
        (_no_dates(OLD), {}),
        (_no_dates(NEW), {}),
        (_no_dates("9.9.9"), {"github.expiry": "UNKNOWN"}),
        (_enterprise_server(NEW), {}),
        (_enterprise_server(OLD), {"github.expiry": "UNKNOWN"}),
        (_offline("a-main"), {}),
        (_offline("a-main", "b-main"), {"github.runners": "CRITICAL"}),
        (_fault("status", path="/runner-groups$", status=403), {"github.public": "UNKNOWN"}),
        (
            lambda github: github.control.fault("sso", count=None, path="/actions/"),
            {"github.credential": "CRITICAL"},
        ),
        (lambda github: github.control.settings(clock_skew_seconds=90), {"github.clock": "WARNING"}),
        (lambda github: github.control.settings(clock_skew_seconds=-900), {"github.clock": "CRITICAL"}),
        (_fault("status", path="/actions/runners$", status=409), {"github.runners": "UNKNOWN"}),
    ],
)
def test_an_organisation_is_judged(
    github: GithubApi, change: Callable[[GithubApi], Any], found: dict[str, str]
) -> None:
    """Each fault is its finding and no other; what is merely different is none."""
    change(github)
    ran = ask(github)
    assert bad(ran) == found, ran.out


def test_a_public_repository_is_critical(github: GithubApi) -> None:
    """Strangers' code on persistent runners; an approval by somebody who reads in a hurry changes nothing."""
    token = github.control.add_token(TOKEN, scopes=["repo"])
    _public(github)
    ran = ask(github, url="/acme/widgets", env={"GH_TOKEN": token})
    assert (ran.code, bad(ran)) == (2, {"github.public": "CRITICAL"}), ran.out


def test_a_small_rest_of_the_rate_limit_is_a_warning(github: GithubApi) -> None:
    """Less than a tenth is left."""
    bucket = {"limit": 5000, "remaining": 400, "used": 4600, "reset": int(time.time()) + 600}
    body = {"resources": {"core": bucket, "search": bucket}, "rate": bucket}
    github.control.document("/rate_limit", body)
    assert bad(ask(github)) == {"github.rate_limit": "WARNING"}


def test_scopes_are_judged_one_by_one(github: GithubApi) -> None:
    """A token of an organisation is not one of a repository; each finding names its scope."""
    ran = ask(github, "--url", f"{github.url}/acme/widgets")
    findings = {(each["id"], each["subject"]): each["status"] for each in ran.json["findings"]}
    assert findings["github.permissions", "acme"] == "OK"
    assert findings["github.permissions", "acme/widgets"] == "CRITICAL"
    assert len(ran.json["scopes"]) == 2


def test_a_github_that_does_not_answer_is_unknown() -> None:
    """Asked once with its retries, then it is said; the rest is not even tried."""
    out, slept = io.StringIO(), list[float]()
    context = Context({"GH_TOKEN": TOKEN}, out, io.StringIO(), sleep=slept.append)
    code = run(["doctor", "--url", "http://127.0.0.1:9/acme", "-o", "json"], context)
    assert (code, bad(Ran(code, out.getvalue(), ""))) == (3, {"github.credential": "UNKNOWN"})
    assert len(slept) <= 4


def test_without_a_credential_it_is_unknown(github: GithubApi) -> None:
    """Its own failure: 3, one line, no answer."""
    ran = ask(github, env={})
    assert (ran.code, ran.out, ran.err.count("\n")) == (3, "", 1)


def _app(github: GithubApi, folder: Path, **permissions: str) -> dict[str, str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    file = folder / "app.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    file.chmod(0o600)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    installation = {"id": 5, "account": "acme", "permissions": permissions}
    github.control.add_app(7, public_key=public, installations=[installation])
    return {"RUNNERCTL_APP_ID": "7", "RUNNERCTL_APP_KEY_FILE": str(file)}


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("permissions", "found", "words"),
    [
        (WRITES, {}, ""),
        ({**WRITES, "contents": "write"}, {"github.excess": "WARNING"}, "contents: write"),
        (READS, {"github.credential": "CRITICAL"}, "organization_self_hosted_runners: write"),
    ],
)
def test_an_app_is_judged(
    github: GithubApi, tmp_path: Path, permissions: dict[str, str], found: dict[str, str], words: str
) -> None:
    """By what its installation was granted; the settings are read with a token of their own."""
    ran = ask(github, env=_app(github, tmp_path, **permissions))
    assert bad(ran) == found, ran.out
    assert words in ran.out


def test_an_app_with_a_wrong_clock_is_told_so(github: GithubApi, tmp_path: Path) -> None:
    """Its signature would be refused: the clock is named, not the key."""
    github.control.settings(clock_skew_seconds=-120)
    ran = ask(github, env=_app(github, tmp_path, **WRITES))
    assert bad(ran) == {"github.clock": "CRITICAL"}, ran.out


Hosts = Callable[..., None]


@pytest.fixture
def hosts(github: GithubApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    """Makes the inventory that ``-i x`` means, as Ansible would have resolved it."""

    def make(*names: str, slots: Sequence[dict[str, Any]] = ({"name": "main"},)) -> None:
        resolved = []
        for number, name in enumerate(names):
            path = host_json(tmp_path / str(number), url=f"{github.url}/acme", slots=slots)
            resolved.append(Resolved(name, {**json.loads(path.read_text()), "host": name}, ()))
        monkeypatch.setattr("runnerctl.cli.inventory.resolve", lambda *_args, **_options: resolved)

    return make


def _runner(name: str, **fields: Any) -> Callable[[GithubApi], Any]:
    given = {"labels": [], "status": "online", "version": NEW, **fields}
    return lambda github: github.control.add_runner(ORG, name, **given)


def _labels(*labels: str) -> Callable[[GithubApi], Any]:
    def change(github: GithubApi) -> None:
        runner = github.control.runner(ORG, "a-main")
        assert runner is not None
        github.control.change_runner(runner["id"], labels=list(labels))

    return change


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("names", "change", "found"),
    [
        (["a", "b"], lambda _: None, {}),
        (["a", "b", "c"], lambda _: None, {"github.absent": "WARNING"}),
        (["a", "b"], _labels("extra"), {"github.label_drift": "WARNING"}),
        (["a", "b"], _labels(DRAINED), {}),
        (["a", "b"], _offline("b-main"), {}),
        (["a", "b"], _group(ours=True, visibility="selected"), {"github.group_drift": "WARNING"}),
        (["a", "b"], _runner("a-gone", status="offline"), {"github.ghosts": "WARNING"}),
        (["a", "b"], _runner("other-host", status="offline"), {}),
        (["a", "a"], lambda _: None, {"github.names": "CRITICAL"}),
    ],
)
def test_a_fleet_is_judged(
    github: GithubApi,
    hosts: Hosts,
    names: list[str],
    change: Callable[[GithubApi], Any],
    found: dict[str, str],
) -> None:
    """Names, drift and left-over records of the inventory's hosts; what others have is theirs."""
    hosts(*names)
    change(github)
    ran = ask(github, "-i", "x")
    assert bad(ran) == found, ran.out


def test_too_much_of_a_fleet_out_of_service(github: GithubApi, hosts: Hosts) -> None:
    """Two drained of four are more than a third."""
    hosts("a", "b", "c", "d")
    for name in ("c-main", "d-main"):
        github.control.add_runner(ORG, name, labels=[DRAINED], status="online", version=NEW)
    ran = ask(github, "-i", "x")
    assert bad(ran) == {"github.held": "WARNING"}, ran.out
