"""``python3 job.pyz WORD...``: attack, leave, look; ``neighbour``, the victim; ``wait`` for the judge."""

from __future__ import annotations

import os
import socket
import sys
import time

from . import devices, files, kernel, leave, limits, look, report, services

_SECONDS = 120
RELEASE = os.path.join(os.environ["GITHUB_WORKSPACE"], "release")
_ = (devices, files, kernel, leave, limits, look, services)  # each enters its attempts


def wait() -> None:
    """Hold still until whoever looks on from outside has seen enough."""
    sys.stdout.write(f"{report.MARK}waiting\n")
    sys.stdout.flush()
    until = time.monotonic() + _SECONDS
    while not os.path.exists(RELEASE) and time.monotonic() < until:
        time.sleep(0.05)


def neighbour() -> None:
    """A job that minds its own business: a file, a secret in its environment, a socket."""
    with open("canary", "w", encoding="ascii") as file:
        file.write(os.environ["NEIGHBOUR_SECRET"])
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(b"\0" + report.config()["abstract"].encode())
        server.listen(8)
        server.settimeout(0.1)
        until = time.monotonic() + _SECONDS
        sys.stdout.write(f"{report.MARK}waiting\n")
        sys.stdout.flush()
        while not os.path.exists(RELEASE) and time.monotonic() < until:
            try:
                client, _address = server.accept()
            except OSError:
                continue
            client.sendall(b"the neighbour's answer")
            client.close()
    with open("canary", encoding="ascii") as file:
        assert file.read() == os.environ["NEIGHBOUR_SECRET"]
    print("the neighbour lives")


for word in sys.argv[1:]:
    {"wait": wait, "neighbour": neighbour}.get(word, lambda word=word: report.run(word))()
