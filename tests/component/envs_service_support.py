"""A service in a thread, with children and a shelf that do what a test says; and clients in plain Python."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runnerctl.envs import client
from runnerctl.envs.leases import Holder
from runnerctl.envs.model import Activation, Ready, Request
from runnerctl.envs.service import Lanes, Service, Sight
from runnerctl.envs.service_asks import Payload
from runnerctl.envs.service_door import Limits
from runnerctl.envs.service_policy import PolicyFile

__all__ = ["FILE", "Bench", "Desk", "raw", "serving"]

FILE = "channels: [conda-forge]\ndependencies: [python]\n"
# A child that reads its order and does what the text of the request says.
CHILD = """
import json, os, sys, time
order = json.loads(sys.stdin.readline())
with open(os.environ["NOTES"], "a") as notes:
    notes.write(order["op"] + "\\n")
def tell(**value):
    print(json.dumps(value), flush=True)
text = order["text"]
if order["op"] == "peek" and "look" not in text:
    tell(build={"key": text, "owner": order["owner"]})
elif "dies" in text:
    os.kill(os.getpid(), 9)
elif "babbles" in text:
    print("no JSON at all", flush=True)
elif "hangs" in text:
    tell(event={"step": "solve"})
    time.sleep(60)
elif "lies" in text:
    tell(ready={"digest": []}, facts=7)
else:
    tell(event={"step": "link", "text": "so far"})
    while "gate" in text and not os.path.exists(os.environ["NOTES"] + ".open"):
        time.sleep(0.01)
    ready = {"status": "built", "key": "k", "digest": "d" * 20, "prefix": "/e", "activation": {"path": []}}
    tell(ready={**ready, "duration_seconds": 1.0})
"""


def ready(status: str = "hit") -> Ready:
    """An answer."""
    return msgspec.convert(
        {"status": status, "key": "k", "digest": "d" * 20, "prefix": "/e", "duration_seconds": 0.0}
        | {"activation": msgspec.to_builtins(Activation(path=("/e/bin",)))},
        Ready,
    )


@dataclass
class Desk:
    """A shelf of texts that are there, with whose they are (None: everybody's)."""

    hits: dict[str, str | None] = field(default_factory=dict)
    kept: list[tuple[str, str | None]] = field(default_factory=list)
    gone: int = 0

    def find(self, request: Request, sight: Sight, holder: Holder | None) -> Ready | None:
        whose = self.hits.get(request.text, "nobody's")
        if whose not in (None, sight.owner):
            return None
        return ready() if holder is None or self.keep("d" * 20, sight, holder) else None

    def keep(self, digest: str, sight: Sight, _holder: Holder) -> bool:
        if self.gone:
            self.gone -= 1
            return False
        self.kept.append((digest, sight.owner))
        return True

    def order(self, op: str, payload: Payload, sight: Sight) -> bytes:
        text = payload.request.text if payload.request else ""
        return json.dumps({"op": op, "owner": sight.owner, "text": text}).encode() + b"\n"

    def learn(self, facts: dict[str, Any]) -> None:
        assert isinstance(facts, dict)


@dataclass
class Bench:
    """A running service."""

    path: str
    place: Path
    desk: Desk
    service: Service
    said: list[str]

    def ops(self) -> list[str]:
        """What children were started for."""
        notes = self.place / "notes"
        return notes.read_text().split() if notes.exists() else []

    def open_gate(self) -> None:
        """Let children that wait go on."""
        (self.place / "notes.open").touch()


@contextlib.contextmanager
def serving(
    *, limits: Limits | None = None, lanes: Lanes | None = None, host: dict[str, Any] | None = None
) -> Iterator[Bench]:
    """A service on a socket of its own. ``host``: what stands in host.json; this user is slot ``a``'s."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "AGAIN_PAUSE_SECONDS", 0.05)
        place = Path(folder)
        (place / "child.py").write_text(CHILD)
        if host is not None:
            (place / "host.json").write_text(json.dumps(host))
        path = str(place / "s")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen(128)
        said: list[str] = []
        desk = Desk()
        service = Service(
            shelf=desk,
            policies=PolicyFile(place / "host.json", say=said.append, ids=lambda _name: 4321),
            listener=listener,
            command=["env", f"NOTES={place / 'notes'}", sys.executable, "-S", str(place / "child.py")],
            say=said.append,
            limits=limits or Limits(),
            lanes=lanes or Lanes(),
        )
        thread = threading.Thread(target=service.serve)
        thread.start()
        try:
            yield Bench(path, place, desk, service, said)
        finally:
            service.stop()
            thread.join(10)
            listener.close()
            assert not thread.is_alive()


def raw(path: str, data: bytes, *, seconds: float = 5.0) -> list[dict[str, Any]]:
    """What the service says to these bytes, until it closes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(seconds)
        stream.connect(path)
        with contextlib.suppress(OSError):
            stream.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := stream.recv(65536):
                answer += piece
    return [json.loads(line) for line in answer.splitlines()]
