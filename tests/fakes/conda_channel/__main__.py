"""Command line: ``python -m tests.fakes.conda_channel --root DIR [--package NAME]... [--serve]``."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from tests.fakes.conda_channel.channel import BASE, TESTING, build_channel
from tests.fakes.conda_channel.server import serve


def main() -> None:
    """Make the channel where there is none, print its address; with ``--serve``, until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.conda_channel", description=__doc__)
    parser.add_argument("--root", required=True, type=Path, help="directory for the channel")
    parser.add_argument("--package", action="append", default=[], help="a wheel to have as a package, too")
    parser.add_argument("--serve", action="store_true", help="answer HTTP requests")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--token", help="serve only to those who send this bearer token")
    options = parser.parse_args()
    if not (options.root / "noarch" / "repodata.json").exists():
        build_channel(options.root, (*BASE, *TESTING, *options.package))
    if not options.serve:
        print(options.root.resolve().as_uri())
        return
    ended = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: ended.set())
    with serve(options.root, address=options.host, port=options.port, token=options.token) as served:
        print(f"Serving {served.url}", flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
