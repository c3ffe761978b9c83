"""The stand-in's runner side: registration, sessions, the queue; and the process with its memory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fakes.github_api import Control, GithubApi
from tests.fakes.github_api.clients import Caller, Listener

ORG, REPO, ENTERPRISE = "/orgs/acme", "/repos/acme/widgets", "/enterprises/acme-inc"
ROOT = Path(__file__).resolve().parents[2]
DEFAULT = {"self-hosted": "read-only", "Linux": "read-only", "X64": "read-only"}


# -- registration


@pytest.mark.parametrize("scope", [REPO, ORG, ENTERPRISE])
def test_registration_makes_an_offline_record_with_its_labels(
    api: Caller, control: Control, scope: str
) -> None:
    listener = Listener(api, scope, "one", labels=["gpu", "Big", "linux"])
    runner = control.runner(scope, "one")
    assert runner is not None and runner["id"] == listener.agent["id"]
    assert (runner["status"], runner["version"], runner["os"]) == ("offline", None, "Linux")
    labels = {label["name"]: label["type"] for label in runner["labels"]}
    assert labels == {**DEFAULT, "gpu": "custom", "Big": "custom"}
    bare = Listener(api, scope, "bare", no_default_labels=True)
    assert [item["name"] for item in control.runners(scope)[1]["labels"]] == ["gpu"]
    assert bare.open().status_code == 200
    assert control.runners(scope)[1]["version"] == "2.336.0"


def test_a_taken_name_needs_replace_and_the_old_secret_dies(api: Caller, control: Control) -> None:
    first = Listener(api, ORG, "one")
    assert Listener(api, ORG, "one").answer.status_code == 409
    second = Listener(api, ORG, "ONE", replace=True, labels=["other"])
    assert second.agent["id"] == first.agent["id"]
    assert first.open().status_code == 404
    assert second.open().status_code == 200
    assert len(control.runners(ORG)) == 1


def test_group_version_floor_and_name(api: Caller, control: Control) -> None:
    group = control.add_group(ORG, "GPUs")
    Listener(api, ORG, "one", group="gpus")
    assert control.runners(ORG)[0]["runner_group_id"] == group["id"]
    assert Listener(api, ORG, "two", group="absent").answer.status_code == 404
    control.settings(floor_version="2.400.0", runtime_floor_version="2.400.0")
    assert Listener(api, ORG, "two").answer.status_code == 422
    control.settings(floor_version="")
    assert Listener(api, ORG, "two").open().status_code == 426


def test_tokens_have_a_kind_a_scope_and_an_end(api: Caller, control: Control) -> None:
    listener = Listener(api, ORG, "one")
    register = api("POST", f"{ORG}/actions/runners/registration-token").json()["token"]
    remove = api("POST", f"{ORG}/actions/runners/remove-token").json()["token"]
    assert len(register) == 29 and register.isupper()
    assert listener.setup(ORG, remove, event="register").status_code == 404
    assert listener.setup(ORG, register, event="remove").status_code == 404
    assert listener.setup(REPO, register, event="register").status_code == 404
    assert listener.setup(ORG, "NOTATOKEN", event="register").status_code == 404
    setup = listener.setup(ORG, remove, event="remove").json()["token"]
    path = f"/_runner/agents/{listener.agent['id']}"
    assert listener.call("DELETE", path, authorization=f"Bearer {setup}").status_code == 204
    assert listener.open().status_code == 404
    control.settings(clock_skew_seconds=3700)
    assert listener.setup(ORG, register, event="register").status_code == 404


# -- sessions and the queue


def test_a_job_runs_from_queue_to_log_to_result(api: Caller, control: Control) -> None:
    listener = Listener(api, ORG, "one")
    assert listener.open().status_code == 200
    with ThreadPoolExecutor(1) as pool:
        offered = pool.submit(listener.poll)
        control.wait_runner(ORG, "one")
        assert (
            listener.mine("POST", "/sessions", {"agent_id": listener.agent["id"], "version": "2"}).status_code
            == 409
        )
        job_id = control.add_job(labels=["SELF-HOSTED", "linux", "gpu"], run="nvidia-smi", env={"A": "1"})
        queued = time.monotonic()
        offer = offered.result(timeout=5).json()["job"]
        assert time.monotonic() - queued < 0.05
    assert (offer["id"], control.runners(ORG)[0]["busy"]) == (job_id, False)
    job = listener.mine("POST", f"/jobs/{job_id}/acquire", {}).json()
    assert job["steps"] == [{"name": "run", "run": "nvidia-smi"}] and job["env"] == {"A": "1"}
    assert control.runners(ORG)[0]["busy"] is True
    assert api("DELETE", f"{ORG}/actions/runners/{listener.agent['id']}").status_code == 422
    text = {"Content-Type": "text/plain", "Authorization": f"Bearer {listener.agent['secret']}"}
    for line in ("one\n", "two\n"):
        api("POST", f"/_runner/jobs/{job_id}/log", data=line, headers=text)
    assert control.job_log(job_id, offset=4) == "two\n"
    assert listener.mine("POST", f"/jobs/{job_id}/complete", {"result": "Succeeded"}).status_code == 204
    done = control.wait_job(job_id, seconds=5)
    assert (done["conclusion"], done["runner_name"]) == ("success", "one")
    assert listener.mine("DELETE", f"/sessions/{listener.session_id}").status_code == 204
    assert control.runners(ORG)[0]["status"] == "offline"


def test_a_job_goes_only_where_labels_scope_and_group_fit(api: Caller, control: Control) -> None:
    control.add_group(ORG, "private", visibility="selected", repositories=["acme/inside"])
    grouped = Listener(api, ORG, "grouped", group="private")
    other = Listener(api, "/orgs/other", "other")
    for listener in (grouped, other):
        listener.open()
    control.add_job(labels=["gpu", "huge"])
    control.add_job(labels=["gpu"], repository="acme/outside")
    assert [listener.poll(0.1).status_code for listener in (grouped, other)] == [204, 204]
    fits = control.add_job(labels=["gpu"], repository="acme/inside")
    assert other.poll(0.1).status_code == 204
    assert grouped.poll(1).json()["job"]["id"] == fits
    api("PUT", f"{ORG}/actions/runners/{grouped.agent['id']}/labels", {"labels": ["drained"]})
    control.cancel_job(fits)
    control.add_job(labels=["gpu"], repository="acme/inside")
    assert grouped.poll(0.1).status_code == 204


@pytest.mark.exhaustive
def test_an_offer_that_nobody_takes_goes_back(api: Caller, control: Control) -> None:
    control.settings(assign_timeout_seconds=0.2)
    first, second = Listener(api, ORG, "first"), Listener(api, ORG, "second")
    first.open()
    job_id = control.add_job(labels=["gpu"])
    assert first.poll(1).json()["job"]["id"] == job_id
    time.sleep(0.25)
    second.open()
    assert second.poll(2).json()["job"]["id"] == job_id
    assert first.poll(0.1).status_code == 204
    assert second.mine("POST", f"/jobs/{job_id}/acquire").status_code == 200
    assert first.mine("POST", f"/jobs/{job_id}/acquire").status_code == 409


def test_a_running_job_is_cancelled_by_a_message(api: Caller, control: Control) -> None:
    listener = Listener(api, ORG, "one")
    listener.open()
    job_id = control.add_job(labels=["gpu"])
    listener.poll(1)
    listener.mine("POST", f"/jobs/{job_id}/acquire")
    control.cancel_job(job_id)
    assert listener.poll(1).json()["cancel"]["id"] == job_id
    assert listener.mine("POST", f"/jobs/{job_id}/complete", {"result": "Canceled"}).status_code == 204
    assert control.job(job_id)["conclusion"] == "cancelled"


def test_an_ephemeral_record_lives_for_one_job(api: Caller, control: Control) -> None:
    listener = Listener(api, ORG, "once", ephemeral=True)
    listener.open()
    job_id = control.add_job(labels=["gpu"])
    assert listener.poll(1).status_code == 200
    listener.mine("POST", f"/jobs/{job_id}/acquire")
    listener.mine("POST", f"/jobs/{job_id}/complete", {"result": "Failed"})
    assert control.runners(ORG) == [] and listener.poll(1).status_code == 404


def test_deleting_an_idle_record_ends_its_poll(api: Caller, control: Control) -> None:
    listener = Listener(api, ORG, "one")
    listener.open()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(listener.poll)
        control.wait_runner(ORG, "one")
        assert api("DELETE", f"{ORG}/actions/runners/{listener.agent['id']}").status_code == 204
        assert answer.result(timeout=2).status_code == 404
    assert listener.open().json()["message"] == "registration has been deleted"


def test_a_listener_that_dies_is_offline_and_may_come_back(
    server: GithubApi, api: Caller, control: Control
) -> None:
    listener = Listener(api, ORG, "one")
    listener.open()
    raw = socket.create_connection((server.host, server.port))
    path = f"/_runner/messages?session_id={listener.session_id}&wait=50"
    raw.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    control.wait_runner(ORG, "one")
    raw.close()
    control.wait_runner(ORG, "one", status="offline", seconds=3)
    assert listener.open().status_code == 200


def test_many_listeners_wait_without_one_in_the_way_of_another(api: Caller, control: Control) -> None:
    listeners = [Listener(api, ORG, f"r{number}") for number in range(12)]
    taken: list[int] = []

    def serve(listener: Listener) -> None:
        listener.open()
        offer = listener.poll(5)
        if offer.status_code == 200:
            taken.append(offer.json()["job"]["id"])

    threads = [threading.Thread(target=serve, args=(listener,)) for listener in listeners]
    for thread in threads:
        thread.start()
    queued = [control.add_job(labels=["gpu"]) for _ in listeners]
    for thread in threads:
        thread.join(timeout=10)
    assert sorted(taken) == sorted(queued)


# -- honesty: secrets, requests, memory


def test_secrets_are_listed_and_stand_in_no_request_entry(api: Caller, control: Control) -> None:
    listener = Listener(api, ORG, "one")
    wanted = {"name": "jit", "runner_group_id": 1, "labels": ["gpu"]}
    blob = api("POST", f"{ORG}/actions/runners/generate-jitconfig", wanted).json()["encoded_jit_config"]
    secrets = control.secrets()
    assert {"ghp_all", blob, listener.agent["secret"]} <= set(secrets)
    assert len(control.secrets("registration")) == 1 and len(control.secrets("setup")) == 1
    entries = str(control.requests())
    assert not [secret for secret in secrets if secret in entries]
    assert control.requests(path="/_runner/agents")[0]["body"]["name"] == "one"


def test_requests_count_calls_and_writes(api: Caller, control: Control) -> None:
    Listener(api, ORG, "one")
    api("GET", f"/api/v3{ORG}/actions/runners")
    assert control.counts() == (2, 1)
    assert control.counts(kind="runner") == (2, 2)
    [last] = control.requests(kind="api", method="GET")
    assert (last["path"], last["status"], last["identity"]) == (f"{ORG}/actions/runners", 200, "classic")
    control.clear_requests()
    assert control.counts() == (0, 0)


def test_a_busy_listener_keeps_its_job_over_a_restart(tmp_path: Path) -> None:
    with GithubApi(state=tmp_path / "state.json") as first:
        first.control.add_token("ghp_all")
        listener = Listener(Caller(first.url, "ghp_all"), ORG, "one")
        listener.open()
        job_id = first.control.add_job(labels=["gpu"])
        listener.poll(1)
        listener.mine("POST", f"/jobs/{job_id}/acquire")
    with GithubApi(port=first.port, state=tmp_path / "state.json") as second:
        assert listener.poll(1).status_code == 409
        assert listener.open().status_code == 200
        assert listener.mine("POST", f"/jobs/{job_id}/complete", {"result": "Succeeded"}).status_code == 204
        assert second.control.job(job_id)["conclusion"] == "success"


@pytest.mark.exhaustive
def test_the_process_keeps_its_records_over_a_restart(tmp_path: Path) -> None:
    state, ready = tmp_path / "state.json", tmp_path / "ready"
    command = [
        sys.executable,
        "-m",
        "tests.fakes.github_api",
        "--state",
        str(state),
        "--ready-file",
        str(ready),
    ]
    secret = ""
    for attempt in range(2):
        ready.unlink(missing_ok=True)
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            try:
                _appears(ready)
                control = Control(ready.read_text().strip())
                api = Caller(control.url, "ghp_all")
                if attempt == 0:
                    control.add_token("ghp_all")
                    secret = Listener(api, ORG, "one").agent["secret"]
                runners = api("GET", f"{ORG}/actions/runners").json()["runners"]
                assert [item["name"] for item in runners] == ["one"]
                assert secret in control.secrets("agent")
            finally:
                os.kill(process.pid, signal.SIGTERM)
        assert process.returncode == 0


def _appears(file: Path) -> None:
    until = time.monotonic() + 10
    while not file.exists():
        assert time.monotonic() < until, "the stand-in did not start"
        time.sleep(0.05)
