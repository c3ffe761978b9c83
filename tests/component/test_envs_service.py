"""The store's service: what it answers, to whom, and what nobody can make it do."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runnerctl.envs import client
from runnerctl.envs.service import Lanes
from runnerctl.envs.service_door import Limits
from runnerctl.envs.service_jobs import Lane
from runnerctl.envs.wire import LONGEST_REQUEST, encode_request
from runnerctl.errors import (
    AccessError,
    BugError,
    ConfigError,
    DataError,
    TryAgainError,
    UnavailableError,
)
from tests.component.envs_service_support import FILE, Bench, raw, serving

SLOT = {"github_runner": {"url": "https://github.com/acme", "slots": [{"name": "a"}]}}
HOST = {"schema": "runnerctl.host/1", "host": "h", **SLOT}


def ensure(bench: Bench, text: str = FILE, **more: Any) -> dict[str, Any]:
    """Ask for an environment."""
    request = {"request": {"text": text}, **more}
    return client.ask("ensure", request, socket_path=bench.path, deadline=20)


def wait_for(condition: Any, seconds: float = 5.0) -> None:
    """Until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_hit_is_quick_and_starts_no_child() -> None:
    """What is there is answered by the loop itself, and kept for the asker's job."""
    with serving() as bench:
        bench.desk.hits[FILE] = None
        begun = time.perf_counter()
        for _ in range(50):
            assert ensure(bench)["status"] == "hit"
        assert (time.perf_counter() - begun) / 50 < 0.02
        assert bench.ops() == []
        assert bench.desk.kept[0] == ("d" * 20, None)


def test_fifty_who_ask_for_one_environment_cost_one_build() -> None:
    """The first look and the build are shared; everybody gets the answer and its progress."""
    with serving() as bench, ThreadPoolExecutor(50) as pool:
        answers = [pool.submit(ensure, bench, FILE + "# gate") for _ in range(50)]
        wait_for(lambda: "build" in bench.ops() and len(bench.service.jobs.running[0].waiters) == 50)
        bench.open_gate()
        assert {answer.result()["status"] for answer in answers} == {"built"}
        assert bench.ops()[:2] == ["peek", "build"]
        assert bench.ops().count("build") == 1
        assert len(bench.desk.kept) == 50
    assert [line.split()[0] for line in bench.said if "gc" not in line] == ["built"]


def test_builds_of_different_files_go_side_by_side_and_the_rest_hears_its_place() -> None:
    """A bounded number at a time; who waits is told which number he is."""
    lanes = Lanes(build=Lane("build", most=2, each=8, seconds=60))
    events: list[Any] = []
    with serving(lanes=lanes) as bench, ThreadPoolExecutor(4) as pool:
        first = pool.submit(ensure, bench, "gate 1")
        wait_for(lambda: len(bench.service.jobs.running) == 1 and "build" in bench.ops())
        second = pool.submit(
            client.ask, "ensure", {"request": {"text": "2"}}, socket_path=bench.path, on_event=events.append
        )
        wait_for(lambda: events)  # one user has not all places: the last one is for somebody else
        assert events[0]["step"] == "wait" and "number 1 in the queue" in events[0]["text"]
        assert not second.done()
        bench.open_gate()
        assert first.result()["status"] == second.result()["status"] == "built"


def test_a_client_that_goes_away_stops_nothing_that_runs() -> None:
    """Its build goes on for the others, or for the next."""
    with serving() as bench, ThreadPoolExecutor(2) as pool:
        with socket.socket(socket.AF_UNIX) as leaving:
            leaving.connect(bench.path)
            leaving.sendall(encode_request("ensure", {"request": {"text": "gate"}}))
            wait_for(lambda: bench.ops() == ["peek", "build"])
        wait_for(lambda: not bench.service.door.clients)
        staying = pool.submit(ensure, bench, "gate")
        wait_for(lambda: len(bench.service.jobs.running[0].waiters) == 1)
        bench.open_gate()
        assert staying.result()["status"] == "built"
        assert bench.ops().count("build") == 1


def test_what_was_removed_at_that_moment_is_asked_for_again() -> None:
    """The environment went between the answer and the lease: nobody gets a path to nothing."""
    with serving() as bench:
        bench.desk.gone = 1
        assert ensure(bench)["status"] == "built"
        assert [op for op in bench.ops() if op != "gc"] == ["peek", "build", "peek", "build"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dies", "was killed by signal 9"),
        ("babbles", "ended with"),
        ("hangs", "took longer than"),
        ("lies", "met a bug"),
    ],
)
def test_a_child_that_dies_babbles_or_hangs_is_one_clear_error(text: str, words: str) -> None:
    """And the next question is answered."""
    lanes = Lanes(build=Lane("build", most=2, each=2, seconds=0.3))
    with serving(lanes=lanes) as bench:
        with pytest.raises((UnavailableError, BugError), match=words):
            ensure(bench, text)
        assert ensure(bench)["status"] == "built"


def test_a_service_that_stops_sends_its_clients_to_the_next_one() -> None:
    """The socket is systemd's: who waits asks again, and the next service builds."""
    with serving() as bench, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ensure, bench, "gate")
        wait_for(lambda: bench.ops() == ["peek", "build"])
        child = bench.service.jobs.running[0].child
        os.unlink(bench.path)  # nobody takes over here
        bench.service.stop()
        with pytest.raises(UnavailableError, match="is not there"):
            answer.result()
        assert child is not None and child.poll() is not None


@pytest.mark.skipif(os.getuid() != 0, reason="the kernel says who asks")
def test_root_sees_an_owners_environments_when_it_names_him() -> None:
    """Without that it gets what is everybody's."""
    with serving(host=HOST) as bench:
        bench.desk.hits["acme's"] = "acme"
        assert ensure(bench, "acme's", owner="ACME")["status"] == "hit"
        assert ensure(bench, "acme's")["status"] == "built"


@pytest.mark.parametrize("op", ["gc", "remove"])
def test_a_slot_can_neither_tidy_nor_look_into_another_owners_part(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel says who asks; here it says that it is the slot."""
    monkeypatch.setattr("runnerctl.envs.service_door._PEER", _Peer())
    with serving(host=HOST) as bench:
        for payload, name in (
            ({"digest": "ab"}, op),
            ({"request": {"text": "x"}, "owner": "other"}, "ensure"),
        ):
            with pytest.raises(AccessError):
                client.ask(name, payload, socket_path=bench.path)
        assert bench.ops() == []
        assert all(line.startswith("refused a: ") for line in bench.said)


class _Peer:
    """A struct ucred that says what a test wants."""

    size = 12

    @staticmethod
    def unpack(_data: bytes) -> tuple[int, int, int]:
        return os.getpid(), 4321, 4321


def test_a_host_file_that_cannot_be_read_refuses_everybody_until_it_is_mended() -> None:
    """Which channels are private is not known then."""
    with serving(host=HOST) as bench:
        (bench.place / "host.json").write_text("{")
        with pytest.raises(ConfigError, match="whose is what"):
            ensure(bench)
        (bench.place / "host.json").write_text(json.dumps(HOST))
        assert ensure(bench)["status"] == "built"


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"GET / HTTP/1.1\n",
        b"\xff\xfe\x00\n",
        b"[" * 100_000 + b"\n",
        b'{"schema":"runnerctl.env.ask/2","op":"ping"}\n',
        b'{"schema":"runnerctl.env.ask/1","op":"rm"}\n',
        b'{"schema":"runnerctl.env.ask/1","op":"ensure"}\n',
        b'{"schema":"runnerctl.env.ask/1","op":"ping","more":1}\n',
        encode_request("remove", {"digest": "../../etc"}),
        encode_request("lease", {"digest": "d" * 65}),
        encode_request("ensure", {"request": {"text": "x" * (1024 * 1024 + 1)}}),
        encode_request("ensure", {"request": {"text": "x", "where": "/" * 5000}}),
        encode_request("ensure", {"request": {"text": "x", "files": {"a": "x" * (1024 * 1024 + 1)}}}),
        encode_request("ensure", {"request": {"text": "x", "engine": "pip"}}),
        b"x" * (LONGEST_REQUEST + 10),
    ],
    ids=range(15),
)
def test_what_is_no_question_gets_one_error(data: bytes) -> None:
    """And starts nothing."""
    with serving() as bench:
        answers = raw(bench.path, data)
        assert len(answers) <= 1  # one who still writes when it is closed may not hear why
        assert all(answer["error"]["exit_code"] == DataError.exit_code for answer in answers)
        assert bench.ops() == []
        assert client.ask("ping", {}, socket_path=bench.path)["schema"] == "runnerctl.env.ask/1"


def test_the_slow_and_the_silent_are_let_go() -> None:
    """Each has its deadline, and nobody waits for them."""
    with (
        serving(limits=Limits(read_seconds=0.2)) as bench,
        socket.socket(socket.AF_UNIX) as silent,
        socket.socket(socket.AF_UNIX) as slow,
    ):
        for stream in (silent, slow):
            stream.connect(bench.path)
            stream.settimeout(5)
        slow.sendall(b'{"sche')
        assert client.ask("ping", {}, socket_path=bench.path)
        assert silent.recv(10) == b""
        assert slow.recv(10) == b""


def test_one_users_crowd_is_turned_away_with_a_word() -> None:
    """Connections of one user are bounded, and so is how often he comes; the log is told once."""
    with serving(limits=Limits(connections=3, flood=20)) as bench:
        crowd = [socket.socket(socket.AF_UNIX) for _ in range(5)]
        for stream in crowd:
            stream.connect(bench.path)
            stream.settimeout(5)
        assert b"you have 3 questions open" in crowd[4].recv(1000)
        for stream in crowd:
            stream.close()
        wait_for(lambda: not bench.service.door.clients)
        with pytest.raises(TryAgainError, match="too often"):
            for _ in range(25):
                client.ask("ping", {}, socket_path=bench.path)
        assert len(bench.said) == 1


def test_one_user_cannot_fill_the_queue() -> None:
    """So many builds of one user, and no more."""
    lanes = Lanes(build=Lane("build", most=1, each=2, seconds=60))
    with serving(lanes=lanes) as bench, ThreadPoolExecutor(2) as pool:
        running = [pool.submit(ensure, bench, f"gate {number}") for number in range(2)]
        wait_for(lambda: len(bench.service.jobs.running + bench.service.jobs.waiting) == 2)
        wait_for(lambda: bench.ops().count("build") == 1)
        with pytest.raises(TryAgainError, match="2 of your questions"):
            ensure(bench, "third")
        bench.open_gate()
        assert [answer.result()["status"] for answer in running] == ["built"] * 2


def test_names_from_jobs_do_no_harm_in_the_log() -> None:
    """The log's writer escapes them; an answer holds them as JSON does."""
    where = "e\x1b[31m\nrefused root: x.yml"
    with serving() as bench:
        with pytest.raises(UnavailableError):
            request = {"request": {"text": "dies", "where": where}}
            client.ask("ensure", request, socket_path=bench.path)
        assert all("\n" not in line.replace(where, "") for line in bench.said)


def test_a_client_says_clearly_what_is_wrong(tmp_path: Path) -> None:
    """No socket, nobody behind it, somebody who speaks something else, somebody who says nothing."""
    path = str(tmp_path / "s")
    with pytest.raises(UnavailableError, match="has no environment store"):
        client.ask("ping", {}, socket_path=path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        with pytest.raises(UnavailableError, match="nobody listens"):
            client.ask("ping", {}, socket_path=path)
        listener.listen()
        thread = threading.Thread(target=lambda: _say(listener, b"HTTP/1.1 400\r\n\n"))
        thread.start()
        with pytest.raises(UnavailableError, match="does not speak"):
            client.ask("ping", {}, socket_path=path)
        thread.join()
        with pytest.raises(TryAgainError, match="in the time there was"):
            client.ask("ping", {}, socket_path=path, deadline=0.2)


def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    """Before the service is up, more may come than the socket's queue holds."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(4) as pool:
        listener.bind(path)
        listener.listen(0)
        ask = partial(client.ask, "ping", {}, socket_path=path)
        answers = [pool.submit(ask) for _ in range(4)]
        time.sleep(0.05)
        for _ in answers:
            _say(listener, b'{"ready":{}}\n')
        assert [answer.result() for answer in answers] == [{}] * 4


def _say(listener: socket.socket, data: bytes) -> None:
    stream, _ = listener.accept()
    with stream:
        stream.recv(100_000)
        stream.sendall(data)
