"""Test hosts by hand: ``python -m tests.hosts up|list|ssh|down|prepare``."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests import browser
from tests.hosts import gpu
from tests.hosts.engine import engine, stop_engine
from tests.hosts.engine import network as hosts_network
from tests.hosts.host import Host, find, names, prune
from tests.hosts.image import SUITES, images
from tests.hosts.keys import make_keys
from tests.hosts.lab import Lab
from tests.hosts.machine import CACHE, HostsError
from tests.hosts.wheelhouse import wheelhouse

KEPT = CACHE / "kept"  # keys of the hosts that outlive the process that made them


def up(arguments: argparse.Namespace) -> int:
    """Make a host that stays."""
    lab = Lab.open(KEPT)
    if find(lab.engine, lab.keys, arguments.name):
        raise HostsError(f"{arguments.name} is up already: choose another --name, or `down {arguments.name}`")
    host = lab.host(
        arguments.name,
        suite=arguments.suite,
        variant="bare" if arguments.bare else "full",
        user=arguments.user,
        devices=gpu.devices() if arguments.gpu else (),
        owner="kept",
    )
    if arguments.gpu:
        gpu.install(host)
    sys.stdout.write(f"{host.name} {host.ip}\n{shlex.join(host.keys.ssh(host.user, host.ip))}\n")
    return 0


def ssh(arguments: argparse.Namespace) -> int:
    """Log in, or run a command."""
    host = _host(arguments.name)
    os.execvp("ssh", [*host.keys.ssh(host.user, host.ip), *arguments.command])


def list_(_: argparse.Namespace) -> int:
    """Name the hosts of this checkout."""
    on = engine()
    keys = make_keys(KEPT, hosts_network(on))
    for name in names(on):
        if host := find(on, keys, name):
            sys.stdout.write(f"{host.name:<20} {host.ip:<15} {host.suite:<9} {host.container.status}\n")
    return 0


def down(arguments: argparse.Namespace) -> int:
    """Remove one host, or all of this checkout's; and the engine, when it is ours."""
    if arguments.name:
        _host(arguments.name).remove()
        return 0
    for name in prune(engine(), everything=True):
        sys.stdout.write(f"removed {name}\n")
    if arguments.engine and stop_engine():
        sys.stdout.write("stopped the Docker Engine of this checkout\n")
    return 0


def standins(arguments: argparse.Namespace) -> int:
    """Serve GitHub and the mirror at the address that hosts know this machine by, until SIGTERM or SIGINT."""
    from tests.hosts.standins import serve

    return serve(hosts_network(engine()).gateway, arguments.root, ready_file=arguments.ready_file)


def prepare(arguments: argparse.Namespace) -> int:
    """Make all that is slow the first time: GPU library, engine, images, wheels, browser."""
    gpu.library()
    if arguments.no_hosts:
        return 0
    with ThreadPoolExecutor(1) as pool:
        wheels = pool.submit(wheelhouse)
        images(engine(), tuple(arguments.suite or SUITES))
        wheels.result()
    browser.prepare()
    return 0


def _host(name: str) -> Host:
    on = engine()
    host = find(on, make_keys(KEPT, hosts_network(on)), name)
    if host is None:
        raise HostsError(f"there is no host {name}: see `list`")
    return host


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.hosts", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("up", help="make a host that stays")
    command.add_argument("--name", default="scratch")
    command.add_argument("--suite", choices=SUITES, default="bookworm")
    command.add_argument(
        "--user", choices=("root", "admin"), default="root", help="who logs in; admin has sudo"
    )
    command.add_argument("--bare", action="store_true", help="without python3-apt and python3-debian")
    command.add_argument("--gpu", action="store_true", help="with one GPU: device files and NVML")
    command.set_defaults(run=up)
    command = commands.add_parser("ssh", help="log in to a host, or run a command on it")
    command.add_argument("name")
    command.add_argument("command", nargs=argparse.REMAINDER)
    command.set_defaults(run=ssh)
    commands.add_parser("list", help="name the hosts that are up").set_defaults(run=list_)
    command = commands.add_parser("down", help="remove hosts")
    command.add_argument("name", nargs="?", help="one host; default: all")
    command.add_argument("--engine", action="store_true", help="also stop the Docker Engine we started")
    command.set_defaults(run=down)
    command = commands.add_parser("standins", help="serve GitHub and the mirror until ended")
    command.add_argument("--root", type=Path, default=CACHE / "standins", help="what the mirror serves")
    command.add_argument(
        "--ready-file", type=Path, help="written when both answer; see tests/hosts/standins.py"
    )
    command.set_defaults(run=standins)
    command = commands.add_parser("prepare", help="make what is slow the first time")
    command.add_argument("--no-hosts", action="store_true", help="only what tests without hosts need")
    command.add_argument("--suite", choices=SUITES, action="append")
    command.set_defaults(run=prepare)
    return parser


def main() -> int:
    """Run a command; gives the exit status."""
    arguments = _parser().parse_args()
    try:
        status: int = arguments.run(arguments)
    except HostsError as error:
        sys.stderr.write(f"hosts: {error}\n")
        return 69
    return status


if __name__ == "__main__":
    sys.exit(main())
