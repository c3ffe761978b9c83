"""The operations on runners of one scope, as the rest of the toolkit speaks of them."""

from __future__ import annotations

import re
from urllib.parse import quote

from runnerctl.errors import DataError, TryAgainError
from runnerctl.github.groups import GroupOperations
from runnerctl.github.jit import JitOperations
from runnerctl.github.labels import LabelOperations
from runnerctl.github.models import Deprecation, Release, Runner, RunnerDownload, RunnerToken
from runnerctl.github.settings import SettingOperations
from runnerctl.redact import register_secret

__all__ = ["RELEASES", "Registry"]

RELEASES = "/repos/actions/runner/releases"  # public; the runner's releases and their check sums
_PLATFORM = re.compile(r"actions-runner-([a-z]+-[a-z0-9]+)-\d")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Registry(LabelOperations, GroupOperations, SettingOperations, JitOperations):
    """Everything about the runners of ``scope``, through ``client``.

    Every method raises what the client raises: AccessError names the missing permission.
    """

    def runners(self) -> tuple[Runner, ...]:
        """Every runner of the scope, through all pages."""
        return self.client.listing(self._runners, Runner, key="runners", what="list the runners") or ()

    def runners_within(self, most: int) -> tuple[Runner, ...] | None:
        """Every runner of the scope; None, after one request, when there are more than ``most``."""
        what = "list the runners"
        return self.client.listing(self._runners, Runner, key="runners", what=what, most=most)

    def runner_by_name(self, name: str) -> Runner | None:
        """The runner of that exact name (GitHub compares without case), or None.

        A server that does not know the ``name`` filter answers with all: the name is compared here too.
        """
        found = self.client.listing(
            self._runners, Runner, key="runners", params={"name": name}, what=f"look up the runner {name}"
        )
        return next((item for item in found or () if item.name.casefold() == name.casefold()), None)

    def runner(self, runner_id: int) -> Runner | None:
        """One runner by its id, or None when it does not exist (or may not be seen)."""
        answer = self.client.get(
            f"{self._runners}/{runner_id}", what=f"read runner {runner_id}", accept=(404,)
        )
        return None if answer.status == 404 else answer.decode(Runner)

    def delete(self, runner_id: int) -> bool:
        """Remove a runner's record; False when it was gone already.

        Raises TryAgainError when it runs a job: GitHub does not delete a busy runner.
        """
        answer = self.client.delete(
            f"{self._runners}/{runner_id}", what=f"delete runner {runner_id}", accept=(422,)
        )
        if answer.status == 422:
            raise TryAgainError(
                f"cannot delete runner {runner_id}: {answer.message or 'it runs a job'}",
                where=self.scope.name,
                remedy="drain it first, or wait until its job has ended",
            )
        return answer.status != 404

    def registration_token(self) -> RunnerToken:
        """Mint a token that registers runners for an hour. Raises AccessError naming the permission."""
        return self._token("registration-token", what="mint a registration token")

    def remove_token(self) -> RunnerToken:
        """Mint a token that unregisters runners for an hour. Raises AccessError naming the permission."""
        return self._token("remove-token", what="mint a remove token")

    def _token(self, kind: str, *, what: str) -> RunnerToken:
        token: RunnerToken = self.client.post(f"{self._runners}/{kind}", what=what, repeatable=True).decode(
            RunnerToken
        )
        register_secret(token.token)
        return token

    def downloads(self) -> tuple[RunnerDownload, ...]:
        """The runner application this scope is expected to run, one for each platform."""
        path = f"{self._runners}/downloads"
        answer = self.client.get(path, what="ask for the expected runner version")
        found: tuple[RunnerDownload, ...] = answer.decode(tuple[RunnerDownload, ...])
        for download in found:
            register_secret(download.temp_download_token or "")
        return found

    def deprecations(self, version: str) -> Deprecation | None:
        """When ``version`` stops working; None when this server does not know the version or the question."""
        path = f"{self._runners}/deprecations/{quote(version, safe='')}"
        answer = self.client.get(path, what=f"ask when runner {version} expires", accept=(404,))
        return None if answer.status == 404 else answer.decode(Deprecation)

    def release_digest(self, version: str, filename: str) -> str | None:
        """The SHA-256 (64 hex digits) that the runner's own release gives for ``filename``.

        None when this server has no such release (GHES) or the release gives none. Raises DataError when the
        file's digest and the release notes disagree.
        """
        answer = self.client.get(
            f"{RELEASES}/tags/v{quote(version, safe='')}",
            what=f"read the release of runner {version}",
            accept=(404,),
        )
        if answer.status == 404:
            return None
        release: Release = answer.decode(Release)
        sums = {_asset_sum(release, filename), _notes_sum(release, filename)} - {None}
        if len(sums) > 1:
            raise DataError(
                f"release v{version} gives {filename} two check sums: {' and '.join(sorted(map(str, sums)))}",
                where=RELEASES,
                remedy="do not install it; pin a version whose check sums agree",
            )
        return sums.pop() if sums else None


def _asset_sum(release: Release, filename: str) -> str | None:
    digest = next((asset.digest or "" for asset in release.assets if asset.name == filename), "").lower()
    value = digest.removeprefix("sha256:")
    return value if digest.startswith("sha256:") and _SHA256.fullmatch(value) else None


def _notes_sum(release: Release, filename: str) -> str | None:
    """The sum between ``<!-- BEGIN SHA linux-x64 -->`` and its end in the release notes."""
    platform = _PLATFORM.match(filename)
    if not platform:
        return None
    name = re.escape(platform[1])
    pattern = rf"<!-- BEGIN SHA {name} -->\s*([0-9a-fA-F]{{64}})\s*<!-- END SHA {name} -->"
    found = re.search(pattern, release.body or "")
    return found[1].lower() if found else None
