"""Operations on runners: what is sent, what comes back, and what GitHub's odd answers mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runnerctl.core.scope import parse_scope
from runnerctl.errors import AccessError, ConfigError, DataError, TryAgainError
from runnerctl.github.models import Runner, RunnerDownload
from runnerctl.github.registry import Registry
from tests.unit.github_answers import Answer, Wire, wire

TOKEN = "LLBF3JGZDX3P5PMEXLND6TS6FCWO6"
SUM = "a" * 64
FILE = "actions-runner-linux-x64-2.336.0.tar.gz"


def registry(*answers: Answer | Exception, url: str = "https://github.com/acme") -> tuple[Registry, Wire]:
    made = wire(*answers)
    return Registry(made.client, parse_scope(url)), made


def row(number: int, name: str = "box-gpu0", **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "name": name,
        "os": "Linux",
        "status": "online",
        "busy": False,
        "labels": [],
        **more,
    }


def rows(*items: dict[str, Any]) -> Answer:
    return Answer(body={"total_count": len(items), "runners": list(items)})


def test_a_runner_of_github_com() -> None:
    labels = [{"id": 1, "name": "Linux", "type": "read-only"}, {"name": "GPU", "type": "custom"}]
    full = row(1, labels=labels, runner_group_id=3, ephemeral=False, version="2.336.0", extra={"new": 1})
    (runner,) = registry(rows(full))[0].runners()
    assert runner.custom_labels() == {"gpu"}
    assert runner.all_labels() == {"gpu", "linux"}
    assert (runner.online, runner.runner_group_id, runner.version, runner.ephemeral) == (
        True,
        3,
        "2.336.0",
        False,
    )


def test_a_runner_of_an_older_server_has_unknowns_not_falsehoods() -> None:
    (runner,) = registry(rows(row(1, version=None)))[0].runners()
    assert (runner.version, runner.ephemeral, runner.runner_group_id) == (None, None, None)


def test_a_runner_without_an_id_is_refused_in_one_line() -> None:
    with pytest.raises(DataError, match="cannot be read"):
        registry(Answer(body={"runners": [{"name": "x"}]}))[0].runners()


def test_a_name_is_looked_up_exactly() -> None:
    """A server that ignores the filter answers with all: the name is compared here."""
    made, script = registry(rows(row(1, "box-gpu01"), row(2, "Box-GPU0")))
    found = made.runner_by_name("box-gpu0")
    assert found is not None
    assert found.id == 2
    assert "name=box-gpu0" in str(script.script.sent[0].url)
    assert registry(rows())[0].runner_by_name("box-gpu0") is None


def test_one_runner_or_none() -> None:
    assert isinstance(registry(Answer(body=row(5)))[0].runner(5), Runner)
    assert registry(Answer(404))[0].runner(5) is None


def test_delete_is_done_gone_or_busy() -> None:
    assert registry(Answer(204))[0].delete(5) is True
    assert registry(Answer(404))[0].delete(5) is False
    with pytest.raises(TryAgainError, match="currently running a job; drain it first"):
        registry(Answer(422, {"message": "Runner is currently running a job"}))[0].delete(5)


@pytest.mark.parametrize("kind", ["registration", "remove"])
def test_tokens(kind: str) -> None:
    made, script = registry(Answer(502), Answer(201, {"token": TOKEN, "expires_at": "2026-11-22T13:00:00Z"}))
    token = made.registration_token() if kind == "registration" else made.remove_token()
    assert token.token == TOKEN
    assert token.expires_at.hour == 13
    assert TOKEN not in repr(token)
    assert script.client.calls[-1] == ("POST", f"/orgs/acme/actions/runners/{kind}-token", 201)


@pytest.mark.parametrize("status", [403, 404])
def test_a_token_that_may_not_be_minted_names_the_permission(status: int) -> None:
    made, _ = registry(Answer(status, {"message": "Not Found"}), url="https://github.com/acme/widgets")
    with pytest.raises(AccessError, match="'Administration: write'") as error:
        made.registration_token()
    assert "cannot mint a registration token" in str(error.value)


def test_labels_are_set_and_read_back() -> None:
    answer = [{"name": "linux", "type": "read-only"}, {"name": "GPU", "type": "custom"}]
    made, script = registry(Answer(body={"total_count": 2, "labels": answer}))
    assert made.set_labels(5, ["gpu", "gpu", "a100"]) == {"gpu"}
    assert json.loads(script.script.sent[0].body or b"") == {"labels": ["a100", "gpu"]}


def test_refused_labels_are_the_inventorys_fault() -> None:
    with pytest.raises(ConfigError, match="refuses the labels gpu: Validation Failed"):
        registry(Answer(422, {"message": "Validation Failed"}))[0].set_labels(5, ["gpu"])


def test_groups() -> None:
    groups = [{"id": 1, "name": "Default", "default": True}, {"id": 2, "name": "GPU"}]
    listed = Answer(body={"total_count": 2, "runner_groups": groups})
    assert [group.id for group in registry(listed)[0].groups()] == [1, 2]
    assert registry(listed)[0].group_id("gpu") == 2
    with pytest.raises(ConfigError, match="no runner group 'cpu'; it has Default, GPU"):
        registry(listed)[0].group_id("cpu")


def test_a_repository_has_no_groups() -> None:
    made, script = registry(url="https://github.com/acme/widgets")
    assert made.groups() == ()
    with pytest.raises(ConfigError):
        made.group_id("gpu")
    with pytest.raises(ConfigError, match="no runner groups"):
        made.move_to_group(1, 2)
    assert script.client.calls == []


def test_a_move_between_groups() -> None:
    made, script = registry(Answer(204))
    made.move_to_group(5, 2)
    assert script.client.calls == [("PUT", "/orgs/acme/actions/runner-groups/2/runners/5", 204)]


def test_downloads() -> None:
    base = {"os": "linux", "architecture": "x64", "filename": FILE, "download_url": f"https://x/{FILE}"}
    made, _ = registry(Answer(body=[base, {**base, "sha256_checksum": SUM, "temp_download_token": "t" * 20}]))
    plain, full = made.downloads()
    assert (plain.version, plain.sha256_checksum, plain.temp_download_token) == ("2.336.0", None, None)
    assert full.sha256_checksum == SUM
    assert "t" * 20 not in repr(full)


@pytest.mark.parametrize(
    ("name", "version"), [("actions-runner-win-x64-2.1.10.zip", "2.1.10"), ("runner.tar.gz", ""), ("", "")]
)
def test_the_version_of_a_file_name(name: str, version: str) -> None:
    assert RunnerDownload("linux", "x64", name, "https://x").version == version


def test_deprecations() -> None:
    body = {"runner_version": "2.335.1", "runtime_deprecates_at": "2026-09-24T00:00:00Z"}
    found = registry(Answer(body=body))[0].deprecations("2.335.1")
    assert found is not None
    assert found.runtime_deprecates_at is not None
    assert found.runtime_deprecates_at.year == 2026
    assert found.registration_deprecates_at is None
    assert registry(Answer(404))[0].deprecations("9.9.9") is None


def release(*, digest: str | None = None, notes: str | None = None) -> Answer:
    body = f"text\n<!-- BEGIN SHA linux-x64 -->{notes}<!-- END SHA linux-x64 -->" if notes else "text"
    other = {"name": "other.tar.gz", "digest": f"sha256:{'f' * 64}"}
    return Answer(
        body={"tag_name": "v2.336.0", "body": body, "assets": [other, {"name": FILE, "digest": digest}]}
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (release(digest=f"sha256:{SUM}", notes=SUM.upper()), SUM),
        (release(digest=f"sha256:{SUM}"), SUM),
        (release(notes=SUM), SUM),
        (release(), None),
        (release(digest="md5:abc", notes="not-a-sum"), None),
        (Answer(404), None),
    ],
)
def test_the_check_sum_of_a_release(answer: Answer, expected: str | None) -> None:
    made, script = registry(answer)
    assert made.release_digest("2.336.0", FILE) == expected
    assert script.client.calls[0].path == "/repos/actions/runner/releases/tags/v2.336.0"


def test_two_check_sums_that_disagree_are_an_error() -> None:
    with pytest.raises(DataError, match="do not install it"):
        registry(release(digest=f"sha256:{SUM}", notes="b" * 64))[0].release_digest("2.336.0", FILE)
