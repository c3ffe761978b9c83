"""The GitHub stand-in keeps GitHub's contract: shapes, rights, pages, faults and its own honesty."""

from __future__ import annotations

import base64
import json
import time
from email.utils import parsedate_to_datetime
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.fakes.github_api import Control, GithubApi
from tests.fakes.github_api.clients import Caller

ORG, REPO, ENTERPRISE = "/orgs/acme", "/repos/acme/widgets", "/enterprises/acme-inc"
SCOPES = (REPO, ORG, ENTERPRISE)


# -- shapes and rights


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("prefix", ["", "/api/v3"])
def test_runner_operations_of_every_scope(api: Caller, control: Control, scope: str, prefix: str) -> None:
    made = control.add_runner(scope, "one", labels=["gpu"])
    base = f"{prefix}{scope}/actions/runners"
    assert api("GET", base).json()["runners"] == [made]
    assert api("GET", f"{base}?name=one").json()["total_count"] == 1
    assert api("GET", f"{base}?name=on").json()["total_count"] == 0
    labels = f"{base}/{made['id']}/labels"
    assert api("POST", labels, {"labels": ["big", "GPU"]}).json()["total_count"] == 5
    named = {
        item["name"]: item["type"] for item in api("PUT", labels, {"labels": ["x64", "new"]}).json()["labels"]
    }
    assert named == {"self-hosted": "read-only", "Linux": "read-only", "X64": "read-only", "new": "custom"}
    assert api("DELETE", f"{labels}/linux").status_code == 422
    assert api("DELETE", f"{labels}/absent").status_code == 404
    assert api("DELETE", f"{labels}/NEW").json()["total_count"] == 3
    assert api("DELETE", labels).status_code == 200
    control.change_runner(made["id"], busy=True)
    assert api("DELETE", f"{base}/{made['id']}").status_code == 422
    control.change_runner(made["id"], busy=False)
    assert api("DELETE", f"{base}/{made['id']}").status_code == 204
    assert api("GET", f"{base}/{made['id']}").status_code == 404
    assert control.violations() == []


def test_jit_configuration_is_one_record_with_its_files(api: Caller) -> None:
    wanted = {"name": "jit", "runner_group_id": 1, "labels": ["self-hosted", "gpu"]}
    answer = api("POST", f"{ORG}/actions/runners/generate-jitconfig", wanted)
    assert answer.status_code == 201
    assert answer.json()["runner"]["ephemeral"] is True
    files = json.loads(base64.b64decode(answer.json()["encoded_jit_config"]))
    assert json.loads(base64.b64decode(files[".runner"]))["agentId"] == answer.json()["runner"]["id"]
    assert api("POST", f"{ORG}/actions/runners/generate-jitconfig", wanted).status_code == 409
    wanted = {**wanted, "name": "other", "runner_group_id": 77}
    assert api("POST", f"{ORG}/actions/runners/generate-jitconfig", wanted).status_code == 404


@pytest.mark.parametrize("scope", [ORG, ENTERPRISE])
def test_groups_and_moves(api: Caller, control: Control, scope: str) -> None:
    base = f"{scope}/actions/runner-groups"
    runner = control.add_runner(scope, "one")["id"]
    group = api("POST", base, {"name": "gpus", "visibility": "selected", "runners": [runner]}).json()
    one = f"{base}/{group['id']}"
    members = "repositories" if scope == ORG else "organizations"
    assert api("GET", f"{one}/runners").json()["total_count"] == 1
    assert api("DELETE", f"{one}/runners/{runner}").status_code == 204
    assert api("PUT", f"{one}/runners/{runner}").status_code == 204
    assert api("GET", f"{scope}/actions/runners/{runner}").json()["runner_group_id"] == group["id"]
    assert api("PUT", f"{one}/{members}/5").status_code == 204
    assert api("GET", f"{one}/{members}").json()[members][0]["id"] == 5
    assert api("PATCH", one, {"name": "gpus", "allows_public_repositories": True}).status_code == 200
    assert api("DELETE", f"{base}/1").status_code == 422
    assert api("DELETE", one).status_code == 204
    assert control.runners(scope)[0]["runner_group_id"] == 1
    assert control.violations() == []


def test_other_operations_answer_what_the_description_says(api: Caller, control: Control) -> None:
    control.add_job(labels=["gpu"], run="true", repository="acme/widgets")
    job = control.jobs()[0]
    paths = [
        "/meta",
        "/rate_limit",
        "/user",
        "/orgs/acme",
        "/orgs/acme/repos",
        REPO,
        f"{ORG}/actions/permissions/self-hosted-runners",
        f"{REPO}/actions/permissions/fork-pr-contributor-approval",
        f"{REPO}/actions/runs?status=queued",
        f"{REPO}/actions/runs/{job['run_id']}/jobs",
        f"{REPO}/actions/jobs/{job['id']}",
    ]
    assert {path: api("GET", path).status_code for path in paths} == dict.fromkeys(paths, 200)
    control.document(f"{ORG}/actions/permissions/self-hosted-runners", {"enabled_repositories": "none"})
    assert api("GET", paths[6]).json() == {"enabled_repositories": "none"}
    assert control.violations() == []


def test_release_and_its_three_checksums(api: Caller, control: Control) -> None:
    checksum = "ab" * 32
    control.release(
        "2.335.0",
        sha256="cd" * 32,
        download_url="http://m/old.tar.gz",
        runtime_deprecates_at="2027-01-01T00:00:00Z",
    )
    control.release("2.336.0", sha256=checksum, download_url="http://m/new.tar.gz")
    release = api("GET", "/repos/actions/runner/releases/tags/v2.336.0").json()
    assert release == api("GET", "/repos/actions/runner/releases/latest").json()
    asset = release["assets"][0]
    assert asset["digest"] == f"sha256:{checksum}"
    assert f"<!-- BEGIN SHA linux-x64 -->{checksum}<!-- END SHA linux-x64 -->" in release["body"]
    assert api("GET", f"{ORG}/actions/runners/downloads").json()[0]["sha256_checksum"] == checksum
    followed = api(
        "GET",
        f"/repos/actions/runner/releases/assets/{asset['id']}",
        headers={"Accept": "application/octet-stream"},
    )
    assert followed.headers["Location"] == "http://m/new.tar.gz"
    dates = api("GET", f"{REPO}/actions/runners/deprecations/2.335.0").json()
    assert dates["runtime_deprecates_at"] == "2027-01-01T00:00:00Z"
    assert api("GET", f"{REPO}/actions/runners/deprecations/9.9.9").status_code == 404
    control.release("2.336.0", sha256=checksum, download_url="http://m/new.tar.gz", digest="sha256:00")
    assert api("GET", "/repos/actions/runner/releases/latest").json()["assets"][0]["digest"] == "sha256:00"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", f"{ORG}/actions/runners/1/labels", {"labels": "gpu"}, 422),
        ("PUT", f"{ORG}/actions/runners/1/labels", None, 422),
        ("POST", f"{ORG}/actions/runners/generate-jitconfig", {"name": "x"}, 422),
        ("POST", f"{ORG}/actions/runner-groups", {"name": "x", "visibilty": "all"}, 422),
        ("POST", f"{ORG}/actions/runners/remove-token", {"a": 1}, 422),
        ("GET", f"{ORG}/actions/runners?per_page=many", None, 422),
        ("GET", f"{ORG}/actions/runners?pages=2", None, 422),
        ("GET", f"{ORG}/actions/runners/abc", None, 422),
        ("PATCH", f"{ORG}/actions/runners/1", {}, 404),
        ("GET", "/orgs/acme/no-such-thing", None, 404),
    ],
)
def test_a_request_that_breaks_the_description_is_refused_and_kept(
    api: Caller, control: Control, method: str, path: str, body: Any, status: int
) -> None:
    assert api(method, path, body).status_code == status
    [*kept] = control.violations()
    assert kept and kept[0]["where"] == "request" and kept[0]["path"] == path.partition("?")[0]


def test_a_body_that_is_no_json_is_400(api: Caller, control: Control) -> None:
    response = api("PUT", f"{ORG}/actions/runners/1/labels", data=b"{labels")
    assert (response.status_code, len(control.violations())) == (400, 1)


def test_an_answer_of_ours_that_breaks_the_description_is_500_and_kept(api: Caller, control: Control) -> None:
    control.fault("bad_answer")
    assert api("GET", f"{ORG}/actions/runners").status_code == 500
    assert [item["where"] for item in control.violations()] == ["answer"]
    assert api("GET", f"{ORG}/actions/runners").status_code == 200


def test_rights(server: GithubApi, control: Control) -> None:
    control.add_token("ghp_repo", scopes=["repo"])
    control.add_token("github_pat_read", permissions={"administration": "read"}, targets=["acme/widgets"])
    control.add_token("ghp_old", expires_at=time.time() - 1)
    runners = f"{REPO}/actions/runners"
    cases = [
        (None, "GET", runners, 401),
        ("ghp_unknown", "GET", runners, 401),
        ("ghp_old", "GET", runners, 401),
        ("ghp_repo", "GET", runners, 200),
        ("ghp_repo", "GET", f"{ORG}/actions/runners", 403),
        ("github_pat_read", "GET", runners, 200),
        ("github_pat_read", "POST", f"{runners}/registration-token", 403),
        ("github_pat_read", "GET", "/repos/acme/other/actions/runners", 404),
        (None, "GET", "/repos/actions/runner/releases", 200),
    ]
    for token, method, path, status in cases:
        assert Caller(server.url, token)(method, path).status_code == status, (token, path)
    assert Caller(server.url, "ghp_repo")("GET", runners).headers["X-OAuth-Scopes"] == "repo"


def test_headers_user_agent_version_date_and_limits(api: Caller, control: Control) -> None:
    assert api("GET", "/meta", headers={"User-Agent": ""}).status_code == 403
    assert api("GET", "/meta", headers={"X-GitHub-Api-Version": "1999-01-01"}).status_code == 400
    control.settings(clock_skew_seconds=3600, rate_limit=2)
    answers = [api("GET", f"{ORG}/actions/runners") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 403]
    assert answers[-1].headers["x-ratelimit-remaining"] == "0"
    assert parsedate_to_datetime(answers[0].headers["Date"]).timestamp() - time.time() > 3500


# -- App


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _app(control: Control, key: rsa.RSAPrivateKey) -> None:
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    permissions = {"organization_self_hosted_runners": "write", "administration": "read"}
    installations = [
        {"id": 1, "account": "acme", "permissions": permissions},
        {"id": 2, "account": "solo", "type": "User", "permissions": permissions, "repositories": ["solo/a"]},
        {"id": 3, "account": "asleep", "permissions": permissions, "suspended": True},
    ]
    control.add_app(42, client_id="Iv1.abc", public_key=public.decode(), installations=installations)


def _jwt(key: rsa.RSAPrivateKey, *, issuer: str = "Iv1.abc", start: int = -60, end: int = 540) -> str:
    now = int(time.time())
    return jwt.encode({"iat": now + start, "exp": now + end, "iss": issuer}, key, algorithm="RS256")


def test_app_finds_its_installation_and_mints_a_token(
    server: GithubApi, control: Control, key: rsa.RSAPrivateKey
) -> None:
    _app(control, key)
    app = Caller(server.url, _jwt(key))
    assert app("GET", f"{ORG}/installation").json()["id"] == 1
    assert app("GET", "/repos/solo/a/installation").json()["id"] == 2
    assert app("GET", "/repos/solo/b/installation").status_code == 404
    assert len(app("GET", "/app/installations?per_page=2").json()) == 2
    assert app("GET", "/app").json()["id"] == 42
    mint = "/app/installations/1/access_tokens"
    assert app("POST", mint, {"permissions": {"administration": "write"}}).status_code == 422
    assert app("POST", "/app/installations/3/access_tokens").status_code == 403
    token = app("POST", mint, {"permissions": {"organization_self_hosted_runners": "write"}}).json()["token"]
    inside = Caller(server.url, token)
    assert inside("GET", f"{ORG}/actions/runners").status_code == 200
    assert inside("GET", "/orgs/other/actions/runners").status_code == 404
    assert inside("GET", f"{REPO}/actions/runners").status_code == 403
    assert inside("DELETE", "/installation/token").status_code == 204
    assert inside("GET", f"{ORG}/actions/runners").status_code == 401
    assert control.violations() == []


def test_app_token_is_really_checked(server: GithubApi, control: Control, key: rsa.RSAPrivateKey) -> None:
    _app(control, key)
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    bad = {
        "signature": _jwt(stranger),
        "issuer": _jwt(key, issuer="7"),
        "future": _jwt(key, start=120),
        "too long": _jwt(key, end=700),
        "expired": _jwt(key, start=-700, end=-100),
    }
    seen = {name: Caller(server.url, token)("GET", "/app").status_code for name, token in bad.items()}
    assert seen == dict.fromkeys(bad, 401)
    assert Caller(server.url, _jwt(key, issuer="42"))("GET", "/app").status_code == 200


# -- pages and caches


def _walk(api: Caller, path: str) -> tuple[list[dict[str, Any]], int]:
    found: list[dict[str, Any]] = []
    pages, url = 0, api.url + path
    while url:
        answer = api.session.get(url, timeout=10)
        found += answer.json()["runners"]
        pages, url = pages + 1, answer.links.get("next", {}).get("url", "")
    return found, pages


def test_pages_of_ten_thousand_runners(api: Caller, control: Control) -> None:
    control.add_runners(ORG, 10_000)
    control.add_runners(REPO, 250)
    found, pages = _walk(api, f"{REPO}/actions/runners?per_page=100")
    assert (len({item["id"] for item in found}), pages) == (250, 3)
    started = time.monotonic()
    for number in range(41, 51):
        answer = api("GET", f"{ORG}/actions/runners?per_page=100&page={number}")
    assert time.monotonic() - started < 1.0
    assert answer.json()["total_count"] == 10_000 and answer.json()["runners"][-1]["name"] == "runner-5000"
    assert set(answer.links) == {"prev", "next", "first", "last"}
    assert len(api("GET", f"{ORG}/actions/runners?per_page=1000").json()["runners"]) == 100


def test_items_shift_between_pages(api: Caller, control: Control) -> None:
    control.add_runners(REPO, 20)
    control.fault("item_shift", by=1)
    twice, _ = _walk(api, f"{REPO}/actions/runners?per_page=10")
    assert (len(twice), len({item["id"] for item in twice})) == (20, 19)
    control.clear_faults()
    control.fault("foreign_link")
    assert "evil.example" in api("GET", f"{REPO}/actions/runners?per_page=10").headers["Link"]


def test_etag_is_answered_with_304_and_costs_nothing(api: Caller, control: Control) -> None:
    path = f"{ORG}/actions/runners"
    first = api("GET", path)
    again = api("GET", path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["x-ratelimit-remaining"] == first.headers["x-ratelimit-remaining"]
    control.add_runner(ORG, "new")
    assert api("GET", path, headers={"If-None-Match": first.headers["ETag"]}).status_code == 200
