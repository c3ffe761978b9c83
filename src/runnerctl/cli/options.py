"""Options that several commands share, so that they are spelt and explained once."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from runnerctl.errors import UsageError

__all__ = [
    "ApiUrlOption",
    "InventoryOption",
    "LimitOption",
    "MaxWaitOption",
    "OutputOption",
    "RootfsOption",
    "UrlOption",
    "seconds_given",
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


def seconds_given(
    text: str | None, option: str, *, least: float = 0.0, most: float = 1_000_000.0
) -> float | None:
    """The seconds that an option was given; None when it was not.

    Options for numbers are texts here: Typer loads pydantic for a number, and every start would pay for it.
    Raises UsageError for what is no number between the two.
    """
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not least <= seconds <= most:  # false for "nan", too
        raise UsageError(f"is {text!r}", where=option, remedy=f"give seconds, from {least:g} to {most:.0f}")
    return seconds
