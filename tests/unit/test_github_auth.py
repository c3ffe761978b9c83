"""Credentials from an environment: which one is taken, what is refused, and that no secret shows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from runnerctl.core.scope import Scope, parse_scope
from runnerctl.errors import AccessError, ConfigError
from runnerctl.github.app import AppCredential, load_key
from runnerctl.github.auth import Bearer, Credential, credentials
from runnerctl.github.client import GitHubClient
from tests.unit.github_answers import API, EPOCH, SECRET, Answer, Clock, Wire, wire

ORG = parse_scope("https://github.com/acme")
REPOSITORY = parse_scope("https://github.com/acme/widgets")
ENTERPRISE = parse_scope("https://github.com/enterprises/acme")


def pem(key: Any) -> str:
    return str(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ).decode()
    )


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture()
def secret_file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str, mode: int = 0o600) -> Path:
        path = tmp_path / "secret"
        path.write_text(text)
        path.chmod(mode)
        return path

    return write


def find(env: dict[str, str], scope: Scope | None = ORG) -> Credential | None:
    return credentials(env, api_url=API, scope=scope)


def must_find(env: dict[str, str]) -> Credential:
    found = find(env)
    assert found is not None
    return found


# --- tokens ----------------------------------------------------------------------------------------


def test_nothing_set_is_no_credential() -> None:
    assert find({}) is None
    assert find({"GH_TOKEN": "", "GITHUB_TOKEN": " "}) is None, "an empty secret of CI counts as unset"


def test_the_first_of_the_order_wins_and_the_others_are_named(secret_file: Any) -> None:
    env = {
        "RUNNERCTL_APP_ID": "1",
        "RUNNERCTL_TOKEN_FILE": str(secret_file("ghp_fromthefile00")),
        "GITHUB_TOKEN": "ghs_fromgithub0000",
        "GH_TOKEN": f" {SECRET}\n",
    }
    seen = []
    for name in ("GH_TOKEN", "GITHUB_TOKEN", "RUNNERCTL_TOKEN_FILE"):
        found = must_find(env)
        assert found.source == name
        seen.append((found.token(), found.describe().ignored))
        del env[name]
    assert seen == [
        (SECRET, ("GITHUB_TOKEN", "RUNNERCTL_TOKEN_FILE", "RUNNERCTL_APP_ID")),
        ("ghs_fromgithub0000", ("RUNNERCTL_TOKEN_FILE", "RUNNERCTL_APP_ID")),
        ("ghp_fromthefile00", ("RUNNERCTL_APP_ID",)),
    ]


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        (SECRET, "classic"),
        ("github_pat_22CCCCCCC", "fine-grained"),
        ("ghs_0123456789", "App installation"),
        ("0123456789abcdef", "unknown"),
    ],
)
def test_the_kind_of_a_token(token: str, kind: str) -> None:
    info = must_find({"GH_TOKEN": token}).describe()
    assert (info.kind, info.token_type, info.source) == ("token", kind, "GH_TOKEN")


def test_a_jobs_own_token_is_told_from_a_given_one() -> None:
    own = must_find({"GITHUB_TOKEN": "ghs_0123456789", "GITHUB_ACTIONS": "true"})
    assert own.describe().token_type == "job"
    assert "can never manage runners" in own.advice
    assert must_find({"GITHUB_TOKEN": "ghs_0123456789"}).advice == ""
    assert must_find({"GH_TOKEN": "ghs_0123456789", "GITHUB_ACTIONS": "true"}).advice == ""


def test_a_secret_is_in_no_repr() -> None:
    found = must_find({"GH_TOKEN": SECRET})
    assert SECRET not in repr(found) + repr(found.describe())


@pytest.mark.parametrize("token", ["two words of text", "line\nbreak-inside", "ünïcödé-token", "abc"])
def test_a_token_that_cannot_be_one(token: str) -> None:
    with pytest.raises(ConfigError, match="is no token") as error:
        find({"GH_TOKEN": token})
    assert token not in str(error.value)
    assert error.value.where == "GH_TOKEN"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o666])
def test_a_file_open_to_others_is_refused(secret_file: Any, mode: int) -> None:
    path = secret_file(SECRET, mode)
    with pytest.raises(ConfigError, match="open to every user") as error:
        find({"RUNNERCTL_TOKEN_FILE": str(path)})
    assert error.value.remedy == f"chmod 600 {path}"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440])
def test_a_closed_file_is_read(secret_file: Any, mode: int) -> None:
    assert must_find({"RUNNERCTL_TOKEN_FILE": str(secret_file(f"{SECRET}\n", mode))}).token() == SECRET


def test_files_that_cannot_be_read(tmp_path: Path, secret_file: Any) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\x00")
    binary.chmod(0o600)
    cases = {
        str(tmp_path / "absent"): "No such file",
        str(tmp_path): "no regular file",
        str(pipe): "no regular file",
        str(binary): "something else than a secret",
        str(secret_file("")): "is empty",
    }
    for name, expected in cases.items():
        with pytest.raises(ConfigError, match=expected) as error:
            find({"RUNNERCTL_TOKEN_FILE": name})
        assert "RUNNERCTL_TOKEN_FILE" in str(error.value)


def test_describe_asks_github_for_login_scopes_and_expiry() -> None:
    headers = {
        "X-OAuth-Scopes": "repo, admin:org",
        "GitHub-Authentication-Token-Expiration": "2026-12-31 10:00:00 UTC",
    }
    info = must_find({"GH_TOKEN": SECRET}).describe(
        wire(Answer(body={"login": "mona"}, headers=headers)).client
    )
    assert (info.identity, info.scopes, info.expires_at) == (
        "mona",
        ("admin:org", "repo"),
        "2026-12-31T10:00:00Z",
    )


@pytest.mark.parametrize(
    ("told", "end", "unread"),
    [
        ("2026-12-31 10:00:00 -0800", "2026-12-31T18:00:00Z", ""),
        ("2026-12-31 10:00:00 PST", None, "2026-12-31 10:00:00 PST"),
        ("", None, ""),
    ],
)
def test_no_end_is_taken_for_none_because_it_cannot_be_read(told: str, end: str | None, unread: str) -> None:
    """Some tokens have an offset in place of UTC."""
    answer = Answer(body={"login": "mona"}, headers={"GitHub-Authentication-Token-Expiration": told})
    info = must_find({"GH_TOKEN": SECRET}).describe(wire(answer).client)
    assert (info.expires_at, info.unread_end) == (end, unread)


def test_describe_of_an_installation_token_has_no_login() -> None:
    made = wire(Answer(403, {"message": "Resource not accessible by integration"}))
    info = must_find({"GH_TOKEN": "ghs_0123456789"}).describe(made.client)
    assert (info.identity, info.scopes) == (None, ())


def test_describe_of_a_dead_token_is_an_error() -> None:
    with pytest.raises(AccessError, match="expired or revoked"):
        must_find({"GH_TOKEN": SECRET}).describe(wire(Answer(401)).client)


# --- App: the environment --------------------------------------------------------------------------


def test_a_key_that_is_no_pem_is_one_clear_error(secret_file: Any, key: rsa.RSAPrivateKey) -> None:
    whole = pem(key)
    elliptic = pem(ec.generate_private_key(ec.SECP256R1()))
    for text in ("hello", "", whole[: len(whole) // 2], whole.replace("A", "!"), elliptic):
        path = secret_file(text)
        with pytest.raises(ConfigError, match="no RSA private key in PEM form") as error:
            find({"RUNNERCTL_APP_ID": "1", "RUNNERCTL_APP_KEY_FILE": str(path)})
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_half_an_app_names_the_other_half(secret_file: Any) -> None:
    with pytest.raises(ConfigError, match="without RUNNERCTL_APP_KEY_FILE"):
        find({"RUNNERCTL_APP_ID": "1"})
    with pytest.raises(ConfigError, match="without RUNNERCTL_APP_ID"):
        find({"RUNNERCTL_APP_KEY_FILE": str(secret_file("x"))})


@pytest.mark.parametrize(
    ("name", "value"), [("RUNNERCTL_APP_ID", "no id!"), ("RUNNERCTL_APP_INSTALLATION_ID", "acme")]
)
def test_ids_are_checked(secret_file: Any, key: rsa.RSAPrivateKey, name: str, value: str) -> None:
    env = {"RUNNERCTL_APP_ID": "1", "RUNNERCTL_APP_KEY_FILE": str(secret_file(pem(key))), name: value}
    with pytest.raises(ConfigError, match=name):
        find(env)


def test_an_app_key_open_to_others_is_refused(secret_file: Any, key: rsa.RSAPrivateKey) -> None:
    with pytest.raises(ConfigError, match="chmod 600"):
        find({"RUNNERCTL_APP_ID": "1", "RUNNERCTL_APP_KEY_FILE": str(secret_file(pem(key), 0o644))})


def test_an_app_is_found_without_asking_github(secret_file: Any, key: rsa.RSAPrivateKey) -> None:
    env = {"RUNNERCTL_APP_ID": "Iv23abc", "RUNNERCTL_APP_KEY_FILE": str(secret_file(pem(key)))}
    found = must_find(env)
    info = found.describe()
    assert (info.kind, info.source, info.identity) == ("app", "RUNNERCTL_APP_ID", "Iv23abc")
    assert "PRIVATE" not in repr(found)


def test_what_is_kept_of_one_installation_serves_no_other(secret_file: Any, key: rsa.RSAPrivateKey) -> None:
    """Else the token of an installation that was given by mistake would outlive the mistake."""
    env = {"RUNNERCTL_APP_ID": "Iv23abc", "RUNNERCTL_APP_KEY_FILE": str(secret_file(pem(key)))}
    given = [{}, {"RUNNERCTL_APP_INSTALLATION_ID": "7"}, {"RUNNERCTL_APP_INSTALLATION_ID": "8"}]
    assert len({must_find({**env, **each}).identity for each in given}) == 3


# --- App: minting ----------------------------------------------------------------------------------


class App:
    """An App credential, the wire it mints over, and a clock."""

    def __init__(
        self, key: Any, *answers: Answer, scope: Scope | None = ORG, installation: int | None = 7
    ) -> None:
        self.clock = Clock()
        self.wires: list[Wire] = []

        def connect(bearer: Bearer) -> GitHubClient:
            self.wires.append(wire(*answers, credential=bearer, clock=self.clock))
            return self.wires[0].client

        self.credential = AppCredential(
            "Iv23abc", key, scope=scope, installation_id=installation, connect=connect, now=self.clock.utc
        )

    @property
    def wire(self) -> Wire:
        return self.wires[0]

    def body(self, index: int) -> Any:
        return self.wire.script.sent[index].body


def minted(token: str = "ghs_minted00001", expires_at: str = "2026-11-22T13:00:00Z") -> Answer:
    permissions = {"organization_self_hosted_runners": "write"}
    return Answer(201, {"token": token, "expires_at": expires_at, "permissions": permissions})


def test_the_jwt_has_the_claims_github_wants(key: rsa.RSAPrivateKey) -> None:
    app = App(key, minted())
    app.credential.token()
    signed = (app.wire.script.header(0, "authorization") or "").removeprefix("Bearer ")
    claims = jwt.decode(
        signed, key.public_key(), algorithms=["RS256"], options={"verify_exp": False, "verify_iat": False}
    )
    assert claims == {"iat": EPOCH - 60, "exp": EPOCH + 540, "iss": "Iv23abc"}


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (ORG, b'{"permissions":{"organization_self_hosted_runners":"write"}}'),
        (REPOSITORY, b'{"permissions":{"administration":"write"}}'),
        (ENTERPRISE, None),
        (None, None),
    ],
)
def test_only_the_needed_permission_is_asked_for(
    key: rsa.RSAPrivateKey, scope: Scope | None, expected: bytes | None
) -> None:
    app = App(key, minted(), scope=scope)
    assert app.credential.token() == "ghs_minted00001"
    assert app.body(0) == expected


def test_a_token_is_kept_until_five_minutes_before_its_end(key: rsa.RSAPrivateKey) -> None:
    app = App(key, minted(), minted("ghs_minted00002", "2026-11-22T14:00:00Z"))
    assert app.credential.token() == "ghs_minted00001"
    app.clock.pass_by(3299)
    assert app.credential.token() == "ghs_minted00001"
    app.clock.pass_by(1)
    assert app.credential.token() == "ghs_minted00002"


def test_renew_mints_again(key: rsa.RSAPrivateKey) -> None:
    app = App(key, minted(), minted("ghs_minted00002"))
    app.credential.token()
    assert app.credential.renew() is True
    assert app.credential.token() == "ghs_minted00002"


def test_the_installation_is_found_for_the_scope(key: rsa.RSAPrivateKey) -> None:
    app = App(key, Answer(body={"id": 42}), minted(), scope=REPOSITORY, installation=None)
    app.credential.token()
    assert [call.path for call in app.wire.client.calls] == [
        "/repos/acme/widgets/installation",
        "/app/installations/42/access_tokens",
    ]


def test_the_installations_are_walked_where_the_scope_does_not_answer(key: rsa.RSAPrivateKey) -> None:
    first = Answer(
        body=[{"id": 1, "account": {"login": "other"}}, {"id": 2, "account": None}],
        headers={"Link": f'<{API}/app/installations?page=2>; rel="next"'},
    )
    second = Answer(body=[{"id": 43, "account": {"slug": "ACME"}}])
    app = App(key, Answer(404), first, second, minted(), scope=ENTERPRISE, installation=None)
    app.credential.token()
    assert app.wire.client.calls[-1].path == "/app/installations/43/access_tokens"


def test_an_app_that_is_not_installed(key: rsa.RSAPrivateKey) -> None:
    app = App(key, Answer(404), Answer(body=[]), installation=None)
    with pytest.raises(AccessError, match="is not installed on acme; install it there"):
        app.credential.token()


def test_a_suspended_app(key: rsa.RSAPrivateKey) -> None:
    app = App(key, Answer(body={"id": 1, "suspended_at": "2026-01-01T00:00:00Z"}), installation=None)
    with pytest.raises(AccessError, match="is suspended on acme"):
        app.credential.token()


def test_an_installation_without_a_scope(key: rsa.RSAPrivateKey) -> None:
    with pytest.raises(ConfigError, match="RUNNERCTL_APP_INSTALLATION_ID"):
        App(key, scope=None, installation=None).credential.token()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (422, "grant the App organization_self_hosted_runners: write"),
        (403, "suspended"),
        (404, "leave it out"),
    ],
)
def test_a_refused_minting_says_what_to_do(key: rsa.RSAPrivateKey, status: int, expected: str) -> None:
    app = App(key, Answer(status, {"message": "The permissions requested are not granted"}))
    with pytest.raises(AccessError, match=expected) as error:
        app.credential.token()
    assert "installation 7" in str(error.value)


def test_a_refused_signature_is_not_renewed_and_names_the_key(key: rsa.RSAPrivateKey) -> None:
    app = App(key, Answer(401, {"message": "A JSON web token could not be decoded"}))
    with pytest.raises(AccessError, match="check that the private key belongs to this App"):
        app.credential.token()


def test_describe_of_an_app_asks_github(key: rsa.RSAPrivateKey) -> None:
    app = App(key, Answer(body={"slug": "gpu-runners"}), minted())
    info = app.credential.describe(wire().client)
    assert (info.identity, info.expires_at) == ("gpu-runners", "2026-11-22T13:00:00Z")
    assert info.permissions == {"organization_self_hosted_runners": "write"}
    assert "ghs_minted" not in repr(info) + repr(app.credential)


def test_a_client_with_an_app_renews_its_token_once(key: rsa.RSAPrivateKey) -> None:
    """Through both clients: GitHub revoked the installation token, the call passes all the same."""
    app = App(key, minted(), minted("ghs_minted00002"))
    made = wire(Answer(401), Answer(body={}), credential=app.credential)
    made.client.get("/orgs/acme/actions/runners")
    assert made.script.header(1, "authorization") == "Bearer ghs_minted00002"


def test_load_key_takes_what_github_gives(key: rsa.RSAPrivateKey) -> None:
    assert load_key(pem(key), path="x").key_size == 2048
