"""Environments from the store, beside an archive as actions/cache restores it: ``python -m benchmarks.envs``.

One environment of 20,000 files and a GiB, one run, all on this machine: the build of a new one, what a job
waits for when it is there, with and without a layer to write to, and the same prefix out of a zstd archive,
without the network that a cache would need. Eight jobs at once ask for one that nobody has built. Prints its
tables and puts them into docs/benchmarks.md. Nothing is asserted: a figure is a figure.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.plays import Spread
from benchmarks.report import put, table
from tests.fakes.conda_channel.archive import CondaPackage
from tests.fakes.conda_channel.channel import build_channel
from tests.hosts.machine import ensure_programs

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
RUNNERCTL = Path(sys.executable).with_name("runnerctl")
FILES, LIBRARIES = 20_000, 6
SMALL_BYTES, LIBRARY_BYTES = 24 * 1024, 100 * 1024 * 1024
HITS, RESTORES, TOGETHER = 30, 5, 8
START_SECONDS = 30.0
_PROGRAM = """\
#!{python}
import sys
from runnerctl.cli.start import main
sys.exit(main(socket_path={socket!r}))
"""
NETWORK_MB = (50.0, 3.5)  # a hosted runner's cache, and what a user measured on a machine of his own


def main() -> int:
    """Measure, print, and keep what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.envs", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small environment; the page is not written")
    quick = parser.parse_args().quick
    ensure_programs({"zstd": "zstd", "tar": "tar"})
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="rb-envs-"))
    try:
        say("channel")
        bench = Bench(folder, quick=quick)
        figures = _measure(bench)
    finally:
        _forget(folder)
    text = f"{_where(time.monotonic() - began, figures)}\n\n{_tables(figures)}\n"
    print(text)
    if not quick:
        put(PAGE, "benchmarks/envs.py", text)
    return 0


@dataclass
class Figures:
    """All that was measured, in seconds; sizes in bytes."""

    files: int
    size: int
    archive: int
    python: Spread
    build: float
    service_hit: Spread
    own_hit: Spread
    layered: Spread
    pack: float
    restore: Spread
    together: float
    built: int
    alone: float


class Bench:
    """A channel, and an environment file that names all that is in it."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self.folder = folder
        files = FILES // 20 if quick else FILES
        libraries = 1 if quick else LIBRARIES
        self.hits = 5 if quick else HITS
        self.restores = 1 if quick else RESTORES
        packages = [_small(files), *(_library(number) for number in range(libraries))]
        self.channel = build_channel(folder / "channel", ("pip",), extra=packages)
        names = ["python", "pip", *(package.name for package in packages)]
        self.file = self.write("environment.yml", names)

    def write(self, name: str, specs: Sequence[str]) -> Path:
        """An environment file."""
        lines = "".join(f"  - {spec}\n" for spec in specs)
        file = self.folder / name
        file.write_text(f"channels:\n  - file://{self.channel}\ndependencies:\n{lines}")
        return file

    def ensure(
        self, file: Path, *words: str, runner: Path | None = None, program: Path = RUNNERCTL
    ) -> dict[str, Any]:
        """One ``runnerctl env ensure`` as a step of a job would have it; its answer."""
        temp = runner or self.folder / "runner"
        temp.mkdir(exist_ok=True)
        env = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
        env |= {"RUNNER_TEMP": str(temp), "GITHUB_ENV": str(temp / "env"), "GITHUB_PATH": str(temp / "path")}
        command = [str(program), "env", "ensure", str(file), "--github", "-o", "json", *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=self.folder)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def _measure(bench: Bench) -> Figures:
    python = Spread(_times(lambda _: subprocess.run([sys.executable, "-c", "pass"], check=True), bench.hits))
    own = ["--store", str(bench.folder / "own")]
    say("hits through the service")
    with _service(bench) as program:
        build, ready = _timed(lambda: bench.ensure(bench.file, "--layer", "none", program=program))
        assert ready["status"] == "built", ready
        service_hit = _hits(bench, "--layer", "none", program=program)
        layered = _hits(bench, "--layer", "auto", program=program)
        say(f"{TOGETHER} at once")
        other = bench.write("other.yml", ["python", "pip", "small"])
        alone_file = bench.write("alone.yml", ["python", "small"])
        alone, _ = _timed(lambda: bench.ensure(alone_file, "--layer", "none", program=program))
        before = _builds(bench)
        together, _ = _timed(lambda: _together(bench, other, program))
        built = _builds(bench) - before
    say("hits without it")
    bench.ensure(bench.file, "--layer", "none", *own)
    own_hit = _hits(bench, "--layer", "none", *own)
    say("archive")
    prefix = Path(ready["prefix"])
    archive = bench.folder / "cache.tzst"
    tar = ["tar", "--posix", "-P", "-C", str(prefix.parent), "--use-compress-program"]
    pack, _ = _timed(lambda: _run([*tar, "zstdmt", "-cf", str(archive), prefix.name]))
    restore = Spread(_times(lambda number: _restore(bench, archive, number), bench.restores))
    return Figures(
        files=ready["files"],
        size=ready["size_bytes"],
        archive=archive.stat().st_size,
        python=python,
        build=build,
        service_hit=service_hit,
        own_hit=own_hit,
        layered=layered,
        pack=pack,
        restore=restore,
        together=together,
        built=built,
        alone=alone,
    )


def _hits(bench: Bench, *words: str, program: Path = RUNNERCTL) -> Spread:
    """Whole processes; each writes into a folder of its own, as each job does."""

    def one(number: int) -> None:
        runner = bench.folder / f"runner-{'-'.join(words[:2]).strip('-').replace('/', '_')}-{number}"
        answer = bench.ensure(bench.file, *words, runner=runner, program=program)
        assert answer["status"] == "hit", answer

    one(-1)
    return Spread(_times(one, bench.hits))


def _together(bench: Bench, file: Path, program: Path) -> None:
    def one(number: int) -> None:
        runner = bench.folder / f"together-{number}"
        bench.ensure(file, "--layer", "none", runner=runner, program=program)

    with ThreadPoolExecutor(TOGETHER) as pool:
        list(pool.map(one, range(TOGETHER)))


def _builds(bench: Bench) -> int:
    """How many environments the service says it has built so far."""
    lines = (bench.folder / "service.log").read_text().splitlines()
    return sum(re.search(r"\bbuilt [0-9a-f]{20}\b", line) is not None for line in lines)


def _restore(bench: Bench, archive: Path, number: int) -> None:
    """Into a fresh folder; nothing is deleted in between, which would slow the next one down."""
    target = bench.folder / f"restored-{number}"
    target.mkdir()
    _run(["tar", "-xf", str(archive), "-P", "-C", str(target), "--use-compress-program", "unzstd"])


@contextmanager
def _service(bench: Bench) -> Iterator[Path]:
    """The service that a host has, run by hand until the end of the block; gives a runnerctl that asks it.

    That is the console script but for the socket's place, which on a host is always the same.
    """
    socket = bench.folder / "env.sock"
    store, spec = bench.folder / "store", bench.folder / "host.json"
    conda = {"store_channels": [f"file://{bench.channel}"]}
    spec.write_text(json.dumps({"schema": "runnerctl.host/1", "host": "bench", "conda": conda}))
    command = [str(RUNNERCTL), "env", "serve", "--socket", str(socket), "--store", str(store)]
    command += ["--host-file", str(spec)]
    program = bench.folder / "runnerctl"
    program.write_text(_PROGRAM.format(python=sys.executable, socket=str(socket)))
    program.chmod(0o755)
    with (bench.folder / "service.log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)
        try:
            until = time.monotonic() + START_SECONDS
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit((bench.folder / "service.log").read_text())
                time.sleep(0.05)
            yield program
        finally:
            process.terminate()
            process.wait(30)


def _small(count: int) -> CondaPackage:
    """Many files, each half noise and half text: they are compressed about as programs are."""
    text = "def function(argument):\n    return argument\n" * (SMALL_BYTES // 88)
    files = {
        f"share/small/{number // 500:03}/{number:06}": _noise(number, SMALL_BYTES // 2) + text.encode()
        for number in range(count)
    }
    return CondaPackage("small", "1.0", files=files, noarch="generic")


def _library(number: int) -> CondaPackage:
    half = LIBRARY_BYTES // 2
    content = _noise(-number, half) + bytes(half)
    return CondaPackage(f"library{number}", "1.0", files={f"lib/library{number}.so": content})


def _noise(seed: int, size: int) -> bytes:
    """Bytes that cannot be compressed, the same each time."""
    return hashlib.shake_128(str(seed).encode()).digest(size)


def _times(do: Callable[[int], object], count: int) -> tuple[float, ...]:
    return tuple(_timed(partial(do, number))[0] for number in range(count))


def _timed(do: Callable[[], Any]) -> tuple[float, Any]:
    began = time.monotonic()
    value = do()
    return time.monotonic() - began, value


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, timeout=600)


def _forget(folder: Path) -> None:
    subprocess.run(["chmod", "-R", "u+w", str(folder)], check=False)
    shutil.rmtree(folder, ignore_errors=True)


def _where(seconds: float, figures: Figures) -> str:
    now = datetime.now(timezone.utc)
    return (
        f"Measured on {now:%Y-%m-%d} in {seconds:.0f} s: {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load average at the end {os.getloadavg()[0]:.1f}; the "
        f"environment has {figures.files} files and {figures.size / 2**20:.0f} MiB, its archive "
        f"{figures.archive / 2**20:.0f} MiB."
    )


def _tables(figures: Figures) -> str:
    least, middle = figures.restore.least, figures.restore.median
    rows = [("what a job waits for", "runs", "median", "p95", "restore takes so many times as long")]
    waits = (
        ("bare Python, for comparison", figures.python, False),
        ("hit, by the host's service", figures.service_hit, True),
        ("hit, with a layer to write to", figures.layered, True),
        ("hit, in a store of one's own", figures.own_hit, True),
        ("restore: `unzstd`, `tar -x`, no network", figures.restore, False),
    )
    for name, spread, compare in waits:
        times = f"{middle / spread.median:.0f} (least to least {least / spread.least:.0f})" if compare else ""
        rows.append((name, str(len(spread.values)), _ms(spread.median), _ms(_p95(spread)), times))
    network = [
        (f"the same archive at {speed:g} MB/s, computed", f"{middle + figures.archive / 1e6 / speed:.1f} s")
        for speed in NETWORK_MB
    ]
    layer = figures.layered.median - figures.service_hit.median
    more = [
        ("once", "seconds"),
        ("cold build: solve, unpack, link, compile, publish", f"{figures.build:.1f} s"),
        ("the layer alone (difference of medians)", f"{layer:.3f} s"),
        ("save: `tar -c`, `zstdmt`", f"{figures.pack:.1f} s"),
        *network,
        ("a smaller environment, built by one that asks alone", f"{figures.alone:.1f} s"),
        (f"{TOGETHER} at once ask for a new one: {figures.built} build", f"{figures.together:.1f} s"),
    ]
    return f"{table(rows)}\n\n{table(more)}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _p95(spread: Spread) -> float:
    return sorted(spread.values)[max(0, round(0.95 * len(spread.values)) - 1)]


def say(what: str) -> None:
    """Tell what is measured now."""
    print(f"envs: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
