"""The records that the stand-in keeps: plain structs, so that a state file is one JSON document."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "App",
    "Group",
    "Installation",
    "Job",
    "Label",
    "Release",
    "Runner",
    "Secret",
    "Settings",
    "State",
    "Token",
]


class Label(msgspec.Struct):
    """A label as the API shows it; ``type`` is ``read-only`` or ``custom``."""

    id: int
    name: str
    type: str


class Runner(msgspec.Struct):
    """One runner record. ``forced_status`` overrides the truth for tests that need no listener."""

    id: int
    name: str
    scope: str
    labels: list[Label]
    os: str = "unknown"
    architecture: str = "X64"
    version: str | None = None
    group_id: int = 1
    ephemeral: bool = False
    disable_update: bool = False
    busy: bool = False
    secret: str = ""
    forced_status: str | None = None


class Group(msgspec.Struct):
    """One runner group; ``selected`` holds repository ids (organisation) or organisation ids (enterprise)."""

    id: int
    name: str
    scope: str
    visibility: str = "all"
    default: bool = False
    allows_public_repositories: bool = False
    restricted_to_workflows: bool = False
    selected_workflows: list[str] = []
    network_configuration_id: str | None = None
    selected: list[int] = []


class Token(msgspec.Struct):
    """A credential. ``kind``: classic, fine-grained, installation, registration, remove, setup.

    ``scope`` and ``event`` belong to runner tokens; ``targets`` limits a token to owners or owner/repo names.
    """

    value: str
    kind: str
    scopes: list[str] = []
    permissions: dict[str, str] = {}
    targets: list[str] = []
    expires_at: float | None = None
    scope: str = ""
    event: str = ""
    login: str = "octocat"


class Installation(msgspec.Struct):
    """Where an App is installed."""

    id: int
    account: str
    type: str = "Organization"
    permissions: dict[str, str] = {}
    repositories: list[str] = []
    suspended: bool = False


class App(msgspec.Struct):
    """A GitHub App: its public key (PEM) and its installations."""

    app_id: int
    public_key: str
    client_id: str = ""
    slug: str = "runner-manager"
    installations: list[Installation] = []


class Release(msgspec.Struct):
    """One runner release.

    ``assets``: architecture -> filename, download_url, sha256 and, where they differ, digest and body_sha256.
    """

    version: str
    assets: dict[str, dict[str, Any]] = {}
    published_at: str = "2026-01-01T00:00:00Z"
    registration_deprecates_at: str | None = None
    runtime_deprecates_at: str | None = None


class Job(msgspec.Struct):
    """One queued, running or finished job. ``status`` and ``conclusion`` use the API's words."""

    id: int
    run_id: int
    repository: str
    workflow: str
    name: str
    labels: list[str]
    steps: list[dict[str, Any]] = []
    env: dict[str, str] = {}
    event_name: str = "push"
    event: dict[str, Any] = {}
    actor: str = "octocat"
    extra: dict[str, Any] = {}
    status: str = "queued"
    conclusion: str | None = None
    result: str | None = None
    summary: str = ""
    assigned_to: int | None = None
    runner_id: int | None = None
    runner_name: str | None = None
    runner_group_id: int | None = None
    created_at: float = 0.0
    assigned_at: float | None = None
    started_at: float | None = None
    completed_at: float | None = None


class Secret(msgspec.Struct):
    """A secret that was minted here or told to us."""

    kind: str
    value: str


class Settings(msgspec.Struct):
    """What a test may set. Seconds, requests per hour, versions, names of repositories."""

    clock_skew_seconds: float = 0.0
    floor_version: str = ""
    runtime_floor_version: str = ""
    api_versions: tuple[str, ...] = ("2022-11-28", "2026-03-10")
    rate_limit: int = 5000
    anonymous_rate_limit: int = 60
    assign_timeout_seconds: float = 60.0
    busy_grace_seconds: float = 60.0
    lost_seconds: float = 600.0
    token_lifetime_seconds: float = 3600.0
    organisation_groups: bool = True
    public_repositories: tuple[str, ...] = ()


class State(msgspec.Struct):
    """Everything that survives a restart. Keys of ``groups``: scope, then group id."""

    settings: Settings = msgspec.field(default_factory=Settings)
    runners: dict[int, Runner] = {}
    groups: dict[str, dict[int, Group]] = {}
    tokens: dict[str, Token] = {}
    apps: list[App] = []
    releases: list[Release] = []
    downloads_version: str | None = None
    jobs: dict[int, Job] = {}
    logs: dict[int, str] = {}
    repositories: dict[str, int] = {}
    owners: dict[str, int] = {}
    documents: dict[str, Any] = {}
    rulesets: dict[str, list[dict[str, Any]]] = {}
    retired: list[str] = []
    secrets: list[Secret] = []
    label_ids: dict[str, int] = {}
    counter: int = 1000
