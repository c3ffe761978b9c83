"""Command line: ``python -m tests.fakes.mirror --host 127.0.0.1 --port 8081 --root DIR``."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from tests.fakes.mirror.miniforge import VERSION
from tests.fakes.mirror.server import Mirror


def main() -> None:
    """Serve until SIGTERM or Ctrl-C; print what was published, then ``Serving <url>``."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.mirror", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--public-host", default="", help="the host's name in printed addresses")
    parser.add_argument("--root", required=True, type=Path, help="directory to serve")
    parser.add_argument(
        "--runner", metavar="VERSION", action="append", default=[], help="publish a runner release"
    )
    parser.add_argument("--architecture", choices=["x64", "arm64"], default="x64")
    parser.add_argument(
        "--miniforge",
        metavar="VERSION",
        action="append",
        default=[],
        help=f"publish an installer, like {VERSION}",
    )
    options = parser.parse_args()
    ended = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: ended.set())
    with Mirror(
        options.root, host=options.host, port=options.port, public_host=options.public_host
    ) as mirror:
        machine = {"x64": "x86_64", "arm64": "aarch64"}[options.architecture]
        published = [mirror.add_runner(version, options.architecture) for version in options.runner]
        published += [mirror.add_miniforge(version, machine) for version in options.miniforge]
        for file in published:
            print(f"{file.sha256}  {file.url}")
        print(f"Serving {mirror.url}", flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
