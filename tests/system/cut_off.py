"""A host without a way out: what distributions bring is there before the cut, and nothing comes after it."""

from __future__ import annotations

from tests.hosts.host import Host

__all__ = ["cut_off"]

# What the roles need of Debian 12: an air-gapped site has a mirror of its distribution, this host has none.
PACKAGES = ("ca-certificates", "libkrb5-3", "zlib1g", "liblttng-ust1", "libssl3", "libicu72", "python3-venv")


def cut_off(host: Host) -> None:
    """Install the distribution's packages, then leave the host with its own network alone."""
    host.exec("apt-get", "update", "-qq", seconds=120)
    host.exec("apt-get", "install", "-qq", "-y", "--no-install-recommends", *PACKAGES, seconds=300)
    host.exec("ip", "route", "del", "default")
    assert host.exec("ip", "route", "get", "192.0.2.1", check=False).rc != 0
