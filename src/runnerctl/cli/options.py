"""Options that several commands share, so that they are spelt and explained once."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

__all__ = [
    "ApiUrlOption",
    "InventoryOption",
    "LimitOption",
    "MaxWaitOption",
    "OutputOption",
    "RootfsOption",
    "UrlOption",
]

OutputFormat = Literal["text", "json"]

OutputOption = Annotated[
    OutputFormat | None,
    typer.Option("--output", "-o", help="How to print the answer. Default: text.", show_default=False),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Repository, organisation or enterprise on GitHub. Default: RUNNERCTL_URL.",
        show_default=False,
    ),
]
ApiUrlOption = Annotated[
    str | None,
    typer.Option(
        "--api-url",
        metavar="URL",
        help="GitHub's REST API. Default: RUNNERCTL_API_URL, or what follows from the URL.",
        show_default=False,
    ),
]
MaxWaitOption = Annotated[
    str | None,
    typer.Option(
        "--max-wait",
        metavar="SECONDS",
        help="How long a call may wait for GitHub's rate limit. Default: RUNNERCTL_MAX_WAIT_SECONDS, or 300.",
        show_default=False,
    ),
]
RootfsOption = Annotated[
    str | None,
    typer.Option(
        "--rootfs",
        metavar="PATH",
        help="Read the host whose file system is mounted here.",
        show_default=False,
    ),
]
InventoryOption = Annotated[
    str | None,
    typer.Option(
        "--inventory",
        "-i",
        metavar="INVENTORY",
        help="The hosts of this Ansible inventory.",
        show_default=False,
    ),
]
LimitOption = Annotated[
    str | None,
    typer.Option(
        "--limit", "-l", metavar="PATTERN", help="Only these hosts of the inventory.", show_default=False
    ),
]
