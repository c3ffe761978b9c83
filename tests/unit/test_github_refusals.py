"""401 and 403: what is wrong with the credential, and what it would need."""

from __future__ import annotations

import pytest

from runnerctl.errors import AccessError
from runnerctl.github.auth import TokenCredential
from tests.unit.github_answers import EPOCH, SECRET, Answer, Clock, wire

RUNNERS = "/orgs/acme/actions/runners"


def message(text: str) -> dict[str, str]:
    return {"message": text, "documentation_url": "https://docs.github.com/rest"}


FORBIDDEN = Answer(
    403,
    message("Must have admin rights"),
    {
        "X-Accepted-GitHub-Permissions": "organization_self_hosted_runners=write",
        "X-OAuth-Scopes": "repo, gist",
    },
)


def test_403_names_the_missing_permission() -> None:
    made = wire(FORBIDDEN)
    with pytest.raises(AccessError) as error:
        made.client.post(f"{RUNNERS}/registration-token", what="mint a registration token")
    text = str(error.value)
    assert text.startswith(
        "acme at api.github.com: cannot mint a registration token: the token of GH_TOKEN may not"
    )
    assert "'admin:org' of a classic token" in text
    assert "'Self-hosted runners: write' of a fine-grained token or GitHub App" in text
    assert "GitHub asks for organization_self_hosted_runners=write" in text
    assert "this token has repo, gist" in text
    assert SECRET not in text
    assert len(made.script.sent) == 1


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("get", "/repos/acme/w/actions/runners", "'Administration: read'"),
        ("delete", "/repos/acme/w/actions/runners/1", "'Administration: write'"),
        ("get", "/orgs/acme/actions/runner-groups", "'Self-hosted runners: read'"),
        ("get", "/enterprises/acme/actions/runners", "'manage_runners:enterprise'"),
        ("get", "/repos/acme/w/actions/runs", "'Actions: read'"),
    ],
)
def test_the_permission_of_each_scope(method: str, path: str, expected: str) -> None:
    made = wire(Answer(403, message("no")))
    with pytest.raises(AccessError, match=expected):
        getattr(made.client, method)(path)


def test_403_for_single_sign_on_says_so() -> None:
    sso = "required; url=https://github.com/orgs/acme/sso?authorization_request=AZSCKtL4U8yX1H3s"
    made = wire(Answer(403, message("Resource protected"), {"X-GitHub-SSO": sso}))
    with pytest.raises(AccessError, match="single sign-on") as error:
        made.client.get(RUNNERS)
    assert "Configure SSO" in error.value.remedy
    assert "AZSCKtL4U8yX1H3s" not in str(error.value)


def test_401_of_a_given_token_is_not_repeated() -> None:
    made = wire(Answer(401, message("Bad credentials")))
    with pytest.raises(AccessError, match="the token is expired or revoked") as error:
        made.client.get(RUNNERS)
    assert "GH_TOKEN" in str(error.value)
    assert len(made.script.sent) == 1


def test_401_of_a_jobs_own_token_says_what_it_is() -> None:
    made = wire(Answer(401), credential=TokenCredential(SECRET, source="GITHUB_TOKEN", job=True))
    with pytest.raises(AccessError, match="the running job's own token and can never manage runners"):
        made.client.get(RUNNERS)


def test_401_without_a_credential_says_which_to_set() -> None:
    made = wire(Answer(401), anonymous=True)
    with pytest.raises(AccessError, match="without a credential; set GH_TOKEN") as error:
        made.client.get(RUNNERS)
    assert "'admin:org'" in str(error.value)


class Renewable:
    """A bearer that counts its renewals."""

    source = "RUNNERCTL_APP_ID 1"
    advice = ""
    identity = ""

    def __init__(self) -> None:
        self.number = 1

    def token(self) -> str:
        return f"ghs_number{self.number}"

    def renew(self) -> bool:
        self.number += 1
        return True


def test_401_of_an_app_renews_once() -> None:
    made = wire(Answer(401), Answer(body=[]), credential=Renewable())
    made.client.get("/meta")
    sent = [made.script.header(index, "authorization") for index in (0, 1)]
    assert sent == ["Bearer ghs_number1", "Bearer ghs_number2"]


def test_401_of_an_app_is_an_error_the_second_time() -> None:
    made = wire(Answer(401), Answer(401), credential=Renewable())
    with pytest.raises(AccessError):
        made.client.get("/meta")


def test_401_for_the_clock_names_the_clock() -> None:
    text = "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"
    made = wire(Answer(401, message(text)), clock=Clock(offset=EPOCH - 1000 + 240))
    with pytest.raises(AccessError, match="this clock is 240 s ahead"):
        made.client.get("/app")
