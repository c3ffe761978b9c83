"""Which runner release a host should run, from where, and by which check sum."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from runnerctl.core.labels import architecture_label
from runnerctl.core.scope import Scope, api_url_for
from runnerctl.core.sections import GithubRunner
from runnerctl.core.templates import fill
from runnerctl.errors import DataError
from runnerctl.github.models import RunnerDownload

__all__ = ["Release", "choose_release"]


class Release:
    """A runner release to install: version, where from, and its SHA-256 (lower-case hexadecimal)."""

    def __init__(self, version: str, *, url: str, sha256: str, token: str | None = None) -> None:
        self.version = version
        self.url = url
        self.sha256 = sha256
        self.token = token  # GHES gives a short-lived token for its own download


def choose_release(
    runner: GithubRunner,
    machine: str,
    *,
    scope: Callable[[], Scope],
    downloads: Callable[[], Sequence[RunnerDownload]],
    digest: Callable[[str, str], str | None],
    installed: Collection[str] = (),
) -> Release:
    """The release for a machine (``uname -m``).

    Without a pin it is the one GitHub expects (``downloads``), with a SHA-256 that two sources agree on: that
    answer and ``digest``, the release's own page. One source is enough for a release that the host has
    ``installed``. Raises DataError when they differ or none is known.
    """
    architecture = architecture_label(machine)
    if runner.version and runner.sha256 and runner.download_url:
        url = _filled(runner, runner.version, architecture)
        return Release(runner.version, url=url, sha256=runner.sha256)
    offer = _offer(downloads(), scope(), architecture)
    version = runner.version or offer.version
    if not version:  # it is the name of a directory on the host
        remedy = "pin github_runner_version"
        raise DataError(f"GitHub offers {offer.filename!r}, which names no version", remedy=remedy)
    name = f"actions-runner-linux-{architecture}-{version}.tar.gz"
    first = offer.sha256_checksum if version == offer.version else None
    second = runner.sha256
    if second is None and not (first and version in installed):
        second = digest(version, name)
        if second is None and api_url_for(scope().url).startswith("https://api."):
            raise _unknown_sum(name)  # only a GitHub Enterprise Server may lack the release's own page
    sha256 = _agreed(name, first, second)
    url = offer.download_url if version == offer.version else _public_url(version, architecture)
    url = _filled(runner, version, architecture) if runner.download_url else url
    # The server's token is for the server's own file: it goes to no other place.
    token = offer.temp_download_token if url == offer.download_url else None
    return Release(version, url=url, sha256=sha256, token=token)


def _filled(runner: GithubRunner, version: str, architecture: str) -> str:
    return fill(runner.download_url or "", version=version, architecture=architecture)


def _offer(offers: Sequence[RunnerDownload], scope: Scope, architecture: str) -> RunnerDownload:
    for offer in offers:
        if offer.os == "linux" and offer.architecture == architecture:
            return offer
    raise DataError(f"GitHub offers no runner for linux-{architecture}", where=scope.name)


def _agreed(name: str, first: str | None, second: str | None) -> str:
    sums = {value.lower() for value in (first, second) if value}
    if len(sums) > 1:
        raise DataError(
            f"two sources disagree on the SHA-256 of {name}: {', '.join(sorted(sums))}",
            remedy="do not install it; find out which source was tampered with",
        )
    if not sums:
        raise _unknown_sum(name)
    return sums.pop()


def _unknown_sum(name: str) -> DataError:
    return DataError(
        f"GitHub's release does not give the SHA-256 of {name}",
        remedy="pin github_runner_version and github_runner_sha256",
    )


def _public_url(version: str, architecture: str) -> str:
    name = f"actions-runner-linux-{architecture}-{version}.tar.gz"
    return f"https://github.com/actions/runner/releases/download/v{version}/{name}"
