"""What GitHub answers, as typed structs: unknown fields are ignored, missing ones are None.

GitHub Enterprise Server sends fewer fields than github.com: a missing ``ephemeral`` or ``version`` is
unknown, not false.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import msgspec

__all__ = [
    "Asset",
    "Deprecation",
    "ForkApproval",
    "GroupMember",
    "JitConfig",
    "Label",
    "RateLimit",
    "Release",
    "Repository",
    "Runner",
    "RunnerDownload",
    "RunnerGroup",
    "RunnerToken",
    "SelfHostedSettings",
]

_VERSION = re.compile(r"-(\d+\.\d+\.\d+)\.(?:tar\.gz|zip)$")


class Label(msgspec.Struct, frozen=True, gc=False):
    """A label of a runner. ``type`` is ``read-only`` for those GitHub sets itself, else ``custom``."""

    name: str
    type: str = "custom"


class Runner(msgspec.Struct, frozen=True, gc=False):
    """A runner as GitHub sees it. ``status`` is ``online`` or ``offline`` and lags by up to minutes."""

    id: int
    name: str
    status: str
    busy: bool
    os: str = "unknown"
    labels: tuple[Label, ...] = ()
    runner_group_id: int | None = None
    version: str | None = None
    ephemeral: bool | None = None

    @property
    def online(self) -> bool:
        """Whether GitHub holds a connection of it."""
        return self.status == "online"

    def custom_labels(self) -> frozenset[str]:
        """The labels that can be changed, lower-cased."""
        return frozenset(label.name.lower() for label in self.labels if label.type == "custom")

    def all_labels(self) -> frozenset[str]:
        """Every label, lower-cased: what a job's ``runs-on`` is compared with."""
        return frozenset(label.name.lower() for label in self.labels)


class RunnerGroup(msgspec.Struct, frozen=True):
    """A runner group of an organisation or enterprise.

    ``visibility`` is ``all``, ``selected`` or ``private``; ``inherited`` groups belong to the enterprise and
    are changed there. None: this server does not say.
    """

    id: int
    name: str
    visibility: str = ""
    default: bool = False
    inherited: bool = False
    allows_public_repositories: bool | None = None
    inherited_allows_public_repositories: bool | None = None
    restricted_to_workflows: bool = False
    selected_workflows: tuple[str, ...] = ()
    workflow_restrictions_read_only: bool = False


class GroupMember(msgspec.Struct, frozen=True):
    """Who may use a group: a repository (``full_name``, ``private``), or an organisation (``login``)."""

    id: int
    full_name: str = ""
    login: str = ""
    private: bool | None = None

    @property
    def name(self) -> str:
        """``owner/repository``, or the organisation's name."""
        return self.full_name or self.login


class Repository(msgspec.Struct, frozen=True):
    """A repository. ``visibility`` is ``public``, ``private`` or ``internal``; empty where it is not told."""

    id: int
    full_name: str
    private: bool
    visibility: str = ""
    archived: bool = False
    fork: bool = False

    @property
    def public(self) -> bool:
        """Whether anybody may open a pull request."""
        return self.visibility == "public" or (not self.visibility and not self.private)


class SelfHostedSettings(msgspec.Struct, frozen=True):
    """Which repositories may have runners of their own: ``all``, ``selected`` or ``none``."""

    enabled_repositories: str


class ForkApproval(msgspec.Struct, frozen=True):
    """Whose pull requests from forks wait for an approval.

    ``approval_policy`` is ``first_time_contributors_new_to_github``, ``first_time_contributors`` or
    ``all_external_contributors``.
    """

    approval_policy: str


class RateLimit(msgspec.Struct, frozen=True):
    """One bucket of requests an hour. ``reset`` is in UTC epoch seconds of GitHub's clock."""

    limit: int
    remaining: int
    reset: int
    used: int = 0


class RunnerToken(msgspec.Struct, frozen=True):
    """A registration or remove token: valid for an hour, for any number of runners of its scope."""

    token: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"RunnerToken(token='***', expires_at={self.expires_at!r})"

    def __rich_repr__(self) -> Any:
        yield "token", "***"
        yield "expires_at", self.expires_at


class JitConfig(msgspec.Struct, frozen=True):
    """A new ephemeral runner, and what its listener starts from: base64, a secret, good for one start."""

    runner: Runner
    encoded_jit_config: str

    def __repr__(self) -> str:
        return f"JitConfig(runner={self.runner!r}, encoded_jit_config='***')"

    def __rich_repr__(self) -> Any:
        yield "runner", self.runner
        yield "encoded_jit_config", "***"


class Deprecation(msgspec.Struct, frozen=True):
    """When a runner version stops registering and running jobs. None: newest version, no date yet."""

    runner_version: str
    registration_deprecates_at: datetime | None = None
    runtime_deprecates_at: datetime | None = None


class RunnerDownload(msgspec.Struct, frozen=True):
    """The runner application GitHub expects this scope to run, for one platform.

    ``os`` is ``linux``, ``osx`` or ``win``; ``architecture`` ``x64``, ``arm64`` or ``arm``.
    ``temp_download_token`` (GHES) goes along as bearer on the download.
    """

    os: str
    architecture: str
    filename: str
    download_url: str
    sha256_checksum: str | None = None
    temp_download_token: str | None = None

    @property
    def version(self) -> str:
        """The version in the file's name (``actions-runner-linux-x64-2.336.0.tar.gz``), empty when absent."""
        found = _VERSION.search(self.filename)
        return found[1] if found else ""

    def __repr__(self) -> str:
        return f"RunnerDownload({self.filename!r}, sha256_checksum={self.sha256_checksum!r})"

    def __rich_repr__(self) -> Any:
        yield self.filename
        yield "sha256_checksum", self.sha256_checksum


class Asset(msgspec.Struct, frozen=True):
    """A file of a release; ``digest`` is ``sha256:<hex>`` where GitHub computed one."""

    name: str
    browser_download_url: str = ""
    digest: str | None = None
    size: int = 0


class Release(msgspec.Struct, frozen=True):
    """A release of the runner."""

    tag_name: str
    body: str | None = None
    assets: tuple[Asset, ...] = ()
