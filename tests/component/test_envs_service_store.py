"""The service with a real store and the real engine: built, hit, kept, private, killed, tidied."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runnerctl.envs import client
from runnerctl.envs.client_files import named_files, reader
from runnerctl.envs.service import Service
from runnerctl.envs.service_policy import PolicyFile
from runnerctl.envs.service_shelf import StoreShelf
from runnerctl.errors import AccessError, DataError, TryAgainError, UnavailableError
from tests.fakes.conda_channel import build_channel

pytest.importorskip("rattler")

USERS = {"gha-a": 4321, "gha-b": 4322}


@dataclass
class Host:
    """A host whose service runs in a thread. ``uid``: as whom the kernel says that clients come."""

    place: Path
    uid: int = 0
    said: list[str] = field(default_factory=list)
    service: Service | None = None
    thread: threading.Thread | None = None

    size = 12

    def unpack(self, _data: bytes) -> tuple[int, int, int]:
        """A struct ucred."""
        return os.getpid(), self.uid, self.uid

    @property
    def path(self) -> str:
        """The socket's."""
        return str(self.place / "s")

    def channel(self, name: str) -> str:
        """The address of one of the channels."""
        return f"file://{self.place / name}"

    def start(self, listener: socket.socket) -> None:
        """A service behind the socket."""
        policies = PolicyFile(self.place / "host.json", say=self.said.append, ids=USERS.get)
        self.service = Service(
            shelf=StoreShelf(self.place / "store", say=self.said.append),
            policies=policies,
            listener=listener,
            command=[sys.executable, "-m", "runnerctl.envs.service_work"],
            say=self.said.append,
        )
        self.thread = threading.Thread(target=self.service.serve)
        self.thread.start()

    def stop(self) -> None:
        """Ask it to end, and wait."""
        if self.service is not None and self.thread is not None:
            self.service.stop()
            self.thread.join(10)
            assert not self.thread.is_alive()

    def ask(self, op: str, **payload: Any) -> dict[str, Any]:
        """A question."""
        return client.ask(op, payload, socket_path=self.path, deadline=60)

    def ensure(self, text: str, **more: Any) -> dict[str, Any]:
        """An environment."""
        return self.ask("ensure", request={"text": text, **more})

    def file(self, *specs: str, channel: str = "public") -> str:
        """An environment.yml."""
        lines = "".join(f"  - {spec}\n" for spec in specs)
        return f"channels:\n  - {self.channel(channel)}\ndependencies:\n{lines}"


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A store, two channels of which one is acme's alone, and the slots of two owners."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        place = Path(folder)
        found = Host(place)
        for name in ("public", "private"):
            build_channel(place / name, ())
        conda = {
            "store_channels": [found.channel("public")],
            "store_private_channels": [{"url": found.channel("private"), "owner": "Acme"}],
        }
        slots = [{"name": "a"}, {"name": "b", "url": "https://github.com/other"}]
        runner = {"url": "https://github.com/acme", "slots": slots}
        spec = {"schema": "runnerctl.host/1", "host": "h", "conda": conda, "github_runner": runner}
        (place / "host.json").write_text(json.dumps(spec))
        patch.setattr("runnerctl.envs.service_door._PEER", found)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(found.path)
            listener.listen(128)
            found.start(listener)
            yield found
            found.stop()


def test_an_environment_is_built_once_hit_after_and_kept_for_its_job(host: Host) -> None:
    """Eight at once cost one build; a comment costs a look; what is in use stays."""
    host.uid = 4321
    text = host.file("tiny=1.0")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(host.ensure, [text] * 8))
    assert {answer["digest"] for answer in answers} == {answers[0]["digest"]}
    assert sum(line.startswith("built") for line in host.said) == 1
    assert host.ensure(text + "# more\n")["status"] == "hit"
    begun = time.perf_counter()
    assert host.ensure(text)["status"] == "hit"
    assert time.perf_counter() - begun < 0.2
    digest = answers[0]["digest"]
    assert host.ask("lease", digest=digest) == {"digest": digest}
    rows = host.ask("list")["environments"]
    assert [(row["digest"], row["leases"]) for row in rows] == [(digest, 1)]
    assert host.ask("verify", full=True)["environments"][0]["problems"] == []
    assert host.ask("lock", request={"text": text})["lock"]
    host.uid = 0
    with pytest.raises(TryAgainError, match="in use"):
        host.ask("remove", digest=digest)
    assert host.ask("gc", budget_bytes=0)["leased"] == 1


@pytest.mark.exhaustive
def test_a_private_channels_environment_is_its_owners_alone(host: Host) -> None:
    """Another owner's slot may neither build from it, nor see, keep or name what was built."""
    host.uid = 4321
    text = host.file("tiny=2.0", channel="private")
    digest = host.ensure(text)["digest"]
    assert (host.place / f"store/owners/acme/envs/{digest}").is_dir()
    assert not (host.place / f"store/envs/{digest}").exists()
    assert host.ensure(text)["status"] == "hit"
    for uid in (4322, 99):
        host.uid = uid
        with pytest.raises(AccessError, match="another owner"):
            host.ensure(text)
        with pytest.raises(AccessError):
            host.ask("lease", digest=digest)
        assert digest not in str(host.ask("list"))
        assert digest not in str(host.ask("verify"))
        with pytest.raises(AccessError):
            host.ask("list", owner="acme")
        with pytest.raises(AccessError):
            host.ask("remove", digest=digest)
    host.uid = 0
    assert digest in str(host.ask("list"))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("dependencies: [tiny\n", ":"),
        ("channels:\n\t- x\n", ":2"),
        ("channels: [defaults]\ndependencies: [tiny]\n", ":1"),
        ("channels: [file:///etc]\ndependencies: [tiny]\n", ":1"),
        ("channels: [conda-forge]\ndependencies: [tiny]\n", ":1"),
    ],
)
def test_a_bad_file_is_one_error_with_its_line(host: Host, text: str, where: str) -> None:
    """And a path in its name is a word in the message, never a place."""
    host.uid = 4321
    with pytest.raises(DataError) as caught:
        host.ensure(text, where="../../etc/passwd")
    assert caught.value.where.startswith(f"../../etc/passwd{where}")


def test_files_that_a_clever_yaml_hides_are_asked_for(host: Host, tmp_path: Path) -> None:
    """The client sends what it sees; the service asks for the rest, and says where a missing one is named."""
    host.uid = 4321
    (tmp_path / "r.txt").write_text("-r gone.txt\n")
    text = host.file("tiny=1.1", "{pip: ['-r r.txt']}")
    assert named_files(text, str(tmp_path)) == {}
    with pytest.raises(DataError, match=r"gone\.txt") as caught:
        client.ask(
            "ensure",
            {"request": {"text": text}},
            socket_path=host.path,
            read=reader(str(tmp_path)),
            deadline=20,
        )
    assert caught.value.where == "r.txt:1"


@pytest.mark.exhaustive
def test_a_killed_builder_and_a_restart_leave_nothing_half(host: Host) -> None:
    """The one that waits is answered by the next build, the next service, or by one clear error."""
    host.uid = 4321
    text = host.file("tiny=1.1")
    with ThreadPoolExecutor(1) as pool:
        for how in ("kill", "stop"):
            answer = pool.submit(host.ensure, text)
            service = host.service
            assert service is not None
            _wait(lambda service=service: _building(service))
            if how == "kill":
                child = service.jobs.running[0].child
                assert child is not None
                os.kill(child.pid, signal.SIGKILL)
                with pytest.raises(UnavailableError, match="signal 9"):
                    answer.result(20)
            else:
                host.stop()
                host.start(service.listener)
                assert answer.result(20)["status"] == "built"
    assert host.ensure(text)["status"] == "hit"
    assert host.ask("verify", full=True)["environments"][0]["problems"] == []


def _building(service: Service) -> bool:
    return any(job.lane is service.lanes.build and job.child for job in list(service.jobs.running))


def _wait(condition: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)
