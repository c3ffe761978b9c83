"""The runner stand-in's tarball, unpacked and run for real against the GitHub stand-in.

What is proven here is the contract that the product relies on: options, files, output lines, exit codes,
process names, hooks and the fault knobs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.fakes.github_api import GithubApi
from tests.fakes.runner_dist import build, filename, sha256
from tests.fakes.runner_dist.box import TOKEN, RunnerBox, eventually

pytestmark = pytest.mark.exhaustive  # one thing in each of its ways

SCOPE = "/repos/acme/engine"
WRITES = 'cat /proc/$PPID/comm; echo "$LINE|$FROM_HOOK|$PWD"; echo ADDED=yes >>$GITHUB_ENV'
LABELS = ["self-hosted", "linux", "gpu"]


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release under test."""
    return build("2.336.0", "x64", tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def shared_github() -> Iterator[GithubApi]:
    """One GitHub for the module."""
    with GithubApi() as github:
        yield github


@pytest.fixture
def github(shared_github: GithubApi) -> GithubApi:
    """GitHub as new, with one known token."""
    shared_github.control.reset()
    shared_github.control.add_token(TOKEN)
    return shared_github


@pytest.fixture
def box(tarball: Path, tmp_path: Path, github: GithubApi) -> Iterator[RunnerBox]:
    """An unpacked, unregistered runner."""
    box = RunnerBox(tarball, tmp_path / "runner", github, scope=SCOPE)
    yield box
    box.stop()


@pytest.fixture
def registered(box: RunnerBox) -> RunnerBox:
    """A registered runner named ``one`` with the label gpu."""
    done = box.configure("--name", "one", "--labels", "gpu")
    assert done.returncode == 0, done.stderr
    return box


# -- the tarball


def test_the_same_arguments_give_the_same_bytes(tarball: Path, tmp_path: Path) -> None:
    """A checksum can be pinned; another version or padding is another file."""
    assert sha256(build("2.336.0", "x64", tmp_path)) == sha256(tarball)
    assert tarball.name == filename("2.336.0", "x64")
    padded = build("2.336.0", "arm64", tmp_path, payload_mib=1)
    assert padded.stat().st_size > 1024 * 1024
    with pytest.raises(ValueError, match="use x64 or arm64"):
        build("2.336.0", "riscv", tmp_path)


def test_the_archive_is_flat_and_belongs_to_whoever_built_it(tarball: Path) -> None:
    """No top directory; owner and names of a hosted builder: unpacking as root shows who keeps them."""
    with tarfile.open(tarball) as archive:
        members = {member.name: member for member in archive}
    assert {"./config.sh", "./run.sh", "./bin/Runner.Listener", "./externals/node24/bin/node"} <= set(members)
    assert (members["./config.sh"].uid, members["./config.sh"].uname) == (1001, "runner")
    assert members["./bin/Runner.Worker"].mode == 0o755


def test_version_commit_and_unknown_words(box: RunnerBox) -> None:
    """Simple answers; a misspelt option is only remarked upon."""
    assert box.listener("--version").stdout == "2.336.0\n"
    assert len(box.listener("--commit").stdout.strip()) == 40
    assert box.listener("warmup").returncode == 0
    odd = box.listener("run", "--onec")
    assert "Unrecognized command-line input arguments" in odd.stderr
    assert (odd.returncode, "Not configured" in odd.stderr) == (1, True)


# -- configure and remove


def test_configure_writes_the_files_and_the_record(registered: RunnerBox) -> None:
    """agentId is the record's id; modes obey; svc.sh appears; the token is in no file."""
    runner = json.loads((registered.root / ".runner").read_bytes().decode("utf-8-sig"))
    record = registered.github.control.runner(SCOPE, "one")
    assert record is not None
    assert (runner["agentId"], runner["gitHubUrl"]) == (record["id"], registered.url)
    assert runner["disableUpdate"] is True
    assert "ephemeral" not in runner
    assert (registered.root / ".runner").read_bytes().startswith(b"\xef\xbb\xbf")
    assert (registered.root / ".credentials_rsaparams").stat().st_mode & 0o777 == 0o600
    assert (registered.root / "svc.sh").exists()
    assert {label["name"].lower() for label in record["labels"]} == {"self-hosted", "linux", "x64", "gpu"}


@pytest.mark.exhaustive
def test_configure_refuses_what_the_real_one_refuses(
    registered: RunnerBox, tarball: Path, tmp_path: Path
) -> None:
    """Configured, a name that is taken, a bad token, a missing group, no URL: exit 1, known text."""
    assert "already configured" in registered.configure("--name", "one").stderr
    other = RunnerBox(tarball, tmp_path / "other", registered.github, scope=SCOPE)
    taken = other.configure("--name", "one")
    assert (taken.returncode, "A runner exists with the same name one" in taken.stderr) == (1, True)
    assert 'runner group named "fast"' in other.configure("--name", "two", "--runnergroup", "fast").stderr
    bad = other.listener("configure", "--unattended", "--url", other.url, "--token", "wrong")
    assert (bad.returncode, "NotFound" in bad.stderr) == (1, True)
    missing = other.listener("configure", "--unattended")
    assert missing.stderr == "Invalid configuration provided for url. Terminating unattended configuration.\n"
    assert other.configure("--name", "one", "--replace").returncode == 0


def test_remove_needs_its_own_token_and_local_needs_none(registered: RunnerBox) -> None:
    """A registration token does not remove; a service blocks; --local leaves the record behind."""
    refused = registered.listener("remove", ACTIONS_RUNNER_INPUT_TOKEN=registered.token())
    assert refused.returncode == 1
    (registered.root / ".service").write_text("unit\n")
    assert "Uninstall service first" in registered.listener("remove").stderr
    (registered.root / ".service").unlink()
    removed = registered.listener("remove", ACTIONS_RUNNER_INPUT_token=registered.token("remove"))
    assert (removed.returncode, "√ Runner removed successfully" in removed.stdout) == (0, True)
    assert registered.github.control.runners(SCOPE) == []
    assert not list(registered.root.glob(".cred*"))
    registered.configure("--name", "two")
    assert registered.listener("remove", "--local").returncode == 0
    assert len(registered.github.control.runners(SCOPE)) == 1


def test_config_sh_refuses_root(box: RunnerBox) -> None:
    """The script refuses uid 0 unless it is told otherwise; with it, it registers and keeps PATH."""
    command = ["./config.sh", "--unattended", "--url", box.url, "--name", "script"]
    environment = {"PATH": os.environ["PATH"], "ACTIONS_RUNNER_INPUT_TOKEN": box.token()}
    if os.getuid() == 0:
        refused = subprocess.run(
            command, cwd=box.root, env=environment, capture_output=True, text=True, timeout=30, check=False
        )
        assert (refused.returncode, refused.stdout) == (1, "Must not run with sudo\n")
    environment["RUNNER_ALLOW_RUNASROOT"] = "1"
    done = subprocess.run(
        command, cwd=box.root, env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    if "libicu" in done.stdout.lower():
        pytest.skip("this machine has no libicu, which the script rightly asks for")
    assert done.returncode == 0, done.stderr
    assert (box.root / ".path").read_text().strip() == os.environ["PATH"]


# -- run


def test_a_job_runs_with_hooks_steps_and_environment(registered: RunnerBox, tmp_path: Path) -> None:
    """The main path: lines on stdout, process names, hooks around the steps, files honoured, log streamed."""
    started, completed = tmp_path / "started.sh", tmp_path / "completed.sh"
    started.write_text('echo "hook in $GITHUB_WORKSPACE"; echo FROM_HOOK=1 >>"$GITHUB_ENV"\n')
    completed.write_text(
        'echo "completed sees $ADDED"; echo "| $GITHUB_WORKFLOW_REF |" >>"$GITHUB_STEP_SUMMARY"\n'
    )
    (registered.root / ".setup_info").write_text(json.dumps([{"group": "GPU", "detail": "8 of them"}]))
    registered.env_file(
        {
            "ACTIONS_RUNNER_HOOK_JOB_STARTED": str(started),
            "ACTIONS_RUNNER_HOOK_JOB_COMPLETED": str(completed),
            "LINE": "from .env",
        }
    )
    registered.start()
    assert registered.process is not None
    assert Path(f"/proc/{registered.process.pid}/comm").read_text() == "Runner.Listener\n"
    job = registered.run_job(
        {
            "name": "first",
            "run": WRITES,
        },
        {"name": "second", "run": 'echo "$ADDED $OWN"; cat "$GITHUB_EVENT_PATH"', "env": {"OWN": "mine"}},
        {"name": "mask", "run": 'echo "::add-mask::hunter2"; echo "it is hunter2"'},
        labels=LABELS,
        event={"number": 7},
    )
    log = job["log"]
    workspace = registered.root / "_work" / "engine" / "engine"
    assert job["conclusion"] == "success", log
    for text in (
        "Runner.Worker",
        f"from .env|1|{workspace}",
        "yes mine",
        '"number": 7',
        f"hook in {workspace}",
    ):
        assert text in log
    for text in ("8 of them", "Starting: Set up runner", "Starting: Complete runner", "completed sees yes"):
        assert text in log
    assert "it is ***" in log
    assert job["summary"] == "| acme/engine/.github/workflows/ci.yml@refs/heads/main |\n"
    assert log.index("Set up runner") < log.index("Starting: first") < log.index("Complete runner")
    registered.wait_for("Running job: build")
    registered.wait_for("Job build completed with result: Succeeded")
    assert list((registered.root / "_diag").glob("Worker_*-utc.log"))
    registered.process.send_signal(signal.SIGINT)
    assert registered.wait() == 0
    registered.wait_for("Exiting...")
    record = registered.github.control.runner(SCOPE, "one")
    assert record is not None
    assert record["status"] == "offline"


@pytest.mark.exhaustive
def test_failures_conditions_and_leftovers(registered: RunnerBox, tmp_path: Path) -> None:
    """A failed started hook skips plain steps, not always() ones; no process outlives the job."""
    registered.start()
    job = registered.run_job(
        {"name": "leave", "run": "sleep 300 & echo $! >left; echo started"},
        {"name": "fails", "run": "false"},
        {"name": "skipped", "run": "echo never-seen | tr a-z A-Z"},
        {"name": "on failure", "run": "echo seen-after-failure", "if": "${{ failure() && !cancelled() }}"},
        labels=LABELS,
    )
    assert job["conclusion"] == "failure"
    assert "NEVER-SEEN" not in job["log"]
    assert "seen-after-failure" in job["log"]
    left = int((registered.root / "_work" / "engine" / "engine" / "left").read_text())
    assert "Terminate orphan process: pid" in job["log"]
    eventually(lambda: gone(left), "the background process ended")
    registered.stop()
    hook = tmp_path / "hook.sh"
    hook.write_text("exit 3\n")
    registered.env_file({"ACTIONS_RUNNER_HOOK_JOB_STARTED": str(hook)})
    time.sleep(0.2)
    registered.start()
    job = registered.run_job(
        {"run": "echo no"}, {"run": "echo clean-up-$((40 + 2))", "if": "always()"}, labels=LABELS
    )
    assert job["conclusion"] == "failure"
    assert ("clean-up-42" in job["log"], "Process completed with exit code 3" in job["log"]) == (True, True)


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie has)."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


@pytest.mark.exhaustive
def test_the_log_arrives_while_the_job_runs_and_a_stop_cancels_it(registered: RunnerBox) -> None:
    """A line is readable within a fraction of a second; SIGINT cancels the job, which is reported."""
    registered.start()
    control = registered.github.control
    job = control.add_job(labels=LABELS, name="long", run="echo now; exec sleep 60")
    eventually(lambda: " now\n" in control.job_log(job), "the line in the log", seconds=5)
    assert registered.process is not None
    registered.process.send_signal(signal.SIGINT)
    assert registered.wait() == 0
    registered.wait_for("Job long completed with result: Canceled")
    assert control.job(job)["conclusion"] == "cancelled"


@pytest.mark.exhaustive
def test_what_a_job_can_hide_from_its_runner(registered: RunnerBox) -> None:
    """A mark that is unset hides a process; a PATH of its own chooses the completed hook's shell."""
    hook = registered.root / "completed.sh"
    hook.write_text("echo honest\n")
    registered.env_file({"ACTIONS_RUNNER_HOOK_JOB_COMPLETED": str(hook)})
    registered.start()
    lie = "mkdir b; printf '#!/bin/sh\\necho lied\\n' >b/bash; chmod +x b/bash; echo $PWD/b >>$GITHUB_PATH"
    job = registered.run_job(
        {"run": "env -u RUNNER_TRACKING_ID sleep 30 & echo $! >left"},
        {"run": lie},
        labels=LABELS,
        event={"number": 7},
    )
    assert (job["conclusion"], "lied" in job["log"].rpartition("Complete runner")[0]) == ("success", True)
    left = int((registered.root / "_work" / "engine" / "engine" / "left").read_text())
    assert not gone(left)
    os.kill(left, signal.SIGKILL)


@pytest.mark.exhaustive
def test_once_and_jit(registered: RunnerBox, tarball: Path, tmp_path: Path) -> None:
    """--once ends after one job; a JIT runner does too, and forgets its configuration."""
    registered.start("--once")
    assert registered.run_job({"run": "true"}, labels=LABELS)["conclusion"] == "success"
    assert registered.wait() == 0
    answer = requests.post(
        f"{registered.github.url}{SCOPE}/actions/runners/generate-jitconfig",
        json={"name": "jit", "runner_group_id": 1, "labels": ["self-hosted", "linux", "gpu"]},
        headers={"Authorization": f"Bearer {TOKEN}", "User-Agent": "tests"},
        timeout=10,
    )
    jit = RunnerBox(tarball, tmp_path / "jit", registered.github, scope=SCOPE)
    try:
        jit.start(ACTIONS_RUNNER_INPUT_JITCONFIG=answer.json()["encoded_jit_config"])
        assert jit.run_job({"run": "true"}, labels=LABELS)["conclusion"] == "success"
        assert jit.wait() == 0
    finally:
        jit.stop()
    assert not (jit.root / ".runner").exists()


def test_a_deleted_record_ends_the_listener_and_its_files(registered: RunnerBox) -> None:
    """The record disappears while it polls: exit 0, configuration gone; a restart says Not configured."""
    registered.start()
    record = registered.github.control.runner(SCOPE, "one")
    assert record is not None
    registered.github.control.delete_runner(record["id"])
    assert registered.wait() == 0
    registered.wait_for("The runner no longer exists on the server. Cleaning up local configuration.")
    assert not (registered.root / ".runner").exists()
    assert "Not configured" in registered.listener("run").stderr


@pytest.mark.exhaustive
def test_an_outage_is_ridden_out(registered: RunnerBox) -> None:
    """GitHub away and back: one line for the error, one for the recovery."""
    registered.start()
    registered.github.refuse(0.6)
    registered.wait_for("Runner connect error: ")
    registered.wait_for("Runner reconnected.")
    assert registered.run_job({"run": "true"}, labels=LABELS)["conclusion"] == "success"


@pytest.mark.parametrize(
    ("variable", "code"), [("", 1), ("ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE", 7)]
)
def test_a_refused_version(registered: RunnerBox, variable: str, code: int) -> None:
    """Connected and listening in word, then one error: 1, or 7 where the environment asks for it."""
    registered.github.control.settings(runtime_floor_version="2.400.0")
    done = registered.listener("run", **({variable: "1"} if variable else {}))
    assert done.returncode == code
    assert "Listening for Jobs" in done.stdout
    assert "is deprecated" in done.stderr


# -- faults


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("fault", "code", "text"),
    [
        ("exit1-after-listening", 1, "is deprecated and cannot receive messages"),
        ("exit7", 7, "is deprecated and cannot receive messages"),
        ("session-conflict", 5, "A session for this runner already exists."),
        ("exit0-wiped", 0, "Cleaning up local configuration."),
        ("crash", -signal.SIGKILL, "Listening for Jobs"),
        ("nonsense", 1, "'nonsense' is no fault"),
    ],
)
def test_faults_that_end_the_listener(registered: RunnerBox, fault: str, code: int, text: str) -> None:
    """Each knob has its exit code and its words."""
    registered.env_file({"GHA_STAND_IN_FAULT": fault, "GHA_STAND_IN_TIME_SCALE": "1000"})
    done = registered.listener("run")
    assert done.returncode == code
    assert text in done.stdout + done.stderr


@pytest.mark.exhaustive
def test_a_number_of_retryable_exits(registered: RunnerBox) -> None:
    """exit2:2 ends twice with 2, then works."""
    registered.env_file({"GHA_STAND_IN_FAULT": "exit2:2"})
    assert [registered.listener("run").returncode for _ in range(2)] == [2, 2]
    registered.start()


@pytest.mark.exhaustive
def test_a_hanging_listener_is_alive_and_offline(registered: RunnerBox) -> None:
    """It greets, keeps its process, polls no more."""
    registered.env_file({"GHA_STAND_IN_FAULT": "hang"})
    registered.start()
    registered.github.control.wait_runner(SCOPE, "one", status="offline", seconds=15)
    assert registered.process is not None
    assert registered.process.poll() is None
    registered.process.send_signal(signal.SIGTERM)
    assert registered.wait() == 0


@pytest.mark.parametrize(("fault", "text"), [("oom-child:8", "exit code 137"), ("worker-crash", "")])
def test_faults_within_a_job(registered: RunnerBox, fault: str, text: str) -> None:
    """A child that is killed, a worker that dies: the job fails, the listener takes the next one."""
    registered.env_file({"GHA_STAND_IN_FAULT": fault})
    registered.start()
    for _ in range(2):
        job = registered.run_job({"run": "true"}, labels=LABELS)
        assert (job["conclusion"], text in job["log"]) == ("failure", True)
    assert registered.process is not None
    assert registered.process.poll() is None
