"""``python -m tests.fakes.github_api``: the stand-in as a process of its own, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from tests.fakes.github_api.server import GithubApi


def main() -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.github_api", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port; 0 takes a free one")
    parser.add_argument("--state", type=Path, help="file that keeps the records over a restart")
    parser.add_argument("--ready-file", type=Path, help="written with the URL once the server listens")
    options = parser.parse_args()
    ended = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: ended.set())
    try:
        github = GithubApi(host=options.host, port=options.port, state=options.state).start()
    except OSError as error:
        print(f"cannot listen on {options.host}:{options.port}: {error.strerror}", file=sys.stderr)
        return 1
    if options.ready_file is not None:
        partial = options.ready_file.with_name(options.ready_file.name + ".partial")
        partial.write_text(github.url + "\n")
        partial.replace(options.ready_file)
    print(github.url, flush=True)
    ended.wait()
    github.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
