"""A conda channel made here: real packages with a real Python, as a folder or behind a small server."""

from __future__ import annotations

from tests.fakes.conda_channel.archive import PLACEHOLDER, CondaPackage, Link, Program, Script
from tests.fakes.conda_channel.channel import BASE, TESTING, add_packages, build_channel, reindex
from tests.fakes.conda_channel.samples import smallfiles
from tests.fakes.conda_channel.server import Served, serve

__all__ = [
    "BASE",
    "PLACEHOLDER",
    "TESTING",
    "CondaPackage",
    "Link",
    "Program",
    "Script",
    "Served",
    "add_packages",
    "build_channel",
    "reindex",
    "serve",
    "smallfiles",
]
