"""A GitHub App as credential: sign, find the installation, mint a token with just the rights that are needed.

Source: GitHub's documentation of authenticating as an App and as an App's installation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timezone
from typing import TYPE_CHECKING, Any

import msgspec

from runnerctl.core.scope import Scope
from runnerctl.errors import AccessError, ConfigError
from runnerctl.github.apptoken import AppToken, KeptToken
from runnerctl.github.auth import Bearer, CredentialInfo, TokenCredential
from runnerctl.github.permissions import APP_PERMISSIONS
from runnerctl.redact import register_secret

if TYPE_CHECKING:
    from runnerctl.github.client import GitHubClient
    from runnerctl.github.transport import Response

__all__ = ["AppCredential", "load_key"]

_BEFORE_SECONDS = 60  # a JWT is dated back: clocks differ
_JWT_SECONDS = 540  # GitHub takes at most 600
_MARGIN_SECONDS = 300  # a token that ends within a call is worth nothing
_SOURCE = "RUNNERCTL_APP_ID"


def load_key(text: str, *, path: str) -> Any:
    """The RSA private key of a PEM text. Raises ConfigError naming ``path`` when it is none."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    register_secret(text)
    try:
        # Proving that the primes are prime takes 70 ms of each start; GitHub refuses a wrong key anyway.
        key = load_pem_private_key(text.encode(), password=None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise ConfigError(
            "the file is no RSA private key in PEM form",
            where=f"RUNNERCTL_APP_KEY_FILE ({path})",
            remedy="download a private key from the App's settings, as GitHub gives it, without a password",
        )
    return key


class _Signed:
    """The App itself, by a JWT of its own; ``renew`` is False, since a new one would be refused alike."""

    def __init__(self, app_id: str, key: Any, now: Callable[[], float]) -> None:
        self._app_id, self._key, self._now = app_id, key, now
        self.source = f"{_SOURCE} {app_id}"
        self.identity = ""  # its few answers are not worth keeping
        self.advice = "check that the private key belongs to this App"

    def token(self) -> str:
        """A JWT for the next nine minutes."""
        import jwt

        moment = int(self._now())
        claims = {"iat": moment - _BEFORE_SECONDS, "exp": moment + _JWT_SECONDS, "iss": self._app_id}
        return jwt.encode(claims, self._key, algorithm="RS256")

    def renew(self) -> bool:
        """False."""
        return False


class AppCredential:
    """An App's installation for one scope. Tokens are minted when needed and kept until five minutes before
    their end: in ``kept`` also for other processes.

    ``connect`` makes a client for the App itself; ``now`` is UTC in epoch seconds.
    """

    advice = ""

    def __init__(
        self,
        app_id: str,
        key: Any,
        *,
        scope: Scope | None,
        installation_id: int | None,
        connect: Callable[[Bearer], GitHubClient],
        now: Callable[[], float] = time.time,
        kept: KeptToken | None = None,
    ) -> None:
        self.source = f"{_SOURCE} {app_id}"
        self._app_id = app_id
        self._scope = scope
        self._installation_id = installation_id
        self._known_installation: int | None = None
        self._now = now
        self._client = connect(_Signed(app_id, key, now))
        self._minted: AppToken | None = None
        self._refused = ""
        self._kept = kept or KeptToken(None, "")
        # A token's successor sees the same: GitHub gives 200 once, and 304 from then on.
        self.identity = f"app {self._kept.key}" if self._kept.key else ""

    def __repr__(self) -> str:
        return f"AppCredential(app_id={self._app_id!r})"

    def token(self) -> str:
        """An installation token; minted when there is none or it ends within five minutes.

        Raises AccessError when the App is not installed, suspended, or was not granted the permission.
        """
        if self._minted is None or not self._lasts(self._minted):
            self._minted = self._kept_token() or self._mint_alone()
            register_secret(self._minted.token)
        return self._minted.token

    def renew(self) -> bool:
        """Drop the token: the next call takes one that another process minted since, or mints another."""
        self._refused = self._minted.token if self._minted else ""
        self._minted = None
        return True

    def _lasts(self, token: AppToken) -> bool:
        return token.expires_at.timestamp() - _MARGIN_SECONDS > self._now()

    def _kept_token(self) -> AppToken | None:
        """The token on disk, unless it ends soon or was refused; its installation is remembered anyhow."""
        found = self._kept.read()
        if found is None:
            return None
        self._known_installation = found.installation_id
        return found if self._lasts(found) and found.token != self._refused else None

    def _mint_alone(self) -> AppToken:
        with self._kept.alone(seconds=self._client.max_wait_seconds):
            found = self._kept_token()
            if found is None:
                found = self._mint()
                self._kept.write(found)
        return found

    def describe(self, client: GitHubClient | None = None) -> CredentialInfo:
        """What this is; with ``client`` also the App's name, and the rights and end of its token."""
        info = CredentialInfo(
            kind="app", source=_SOURCE, token_type="App installation", identity=self._app_id
        )
        if client is None:
            return info
        app = self._client.get("/app", what="check the App").json() or {}
        self.token()
        if self._minted is None:
            return info
        return msgspec.structs.replace(
            info,
            identity=str(app.get("slug") or app.get("name") or self._app_id),
            permissions=self._minted.permissions,
            expires_at=self._minted.expires_at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )

    def granted(self) -> dict[str, str]:
        """What the installation was granted, of which `token` asks for the part that runners need."""
        self.token()
        found = self._installation_id or self._known_installation or self._find_installation()
        answer = self._client.get(f"/app/installations/{found}", what="read the App's installation").json()
        return {str(name): str(level) for name, level in ((answer or {}).get("permissions") or {}).items()}

    def narrowed(self, permissions: dict[str, str]) -> TokenCredential:
        """A token of the installation with other rights than `token` asks for, until it ends in an hour.

        Raises AccessError when the installation was not granted them.
        """
        self.token()
        found = self._installation_id or self._known_installation or self._find_installation()
        answer = self._ask_for_token(found, permissions)
        if answer.status != 201:
            raise self._cannot_mint(answer, found)
        token: AppToken = answer.decode(AppToken)
        return TokenCredential(token.token, source=self.source)

    def _mint(self) -> AppToken:
        """A token of the installation that is configured, known from an earlier run, or found now."""
        found = self._installation_id or self._known_installation
        installation = found or self._find_installation()
        answer = self._ask_for_token(installation)
        if answer.status == 404 and found and self._installation_id is None:  # it was installed anew
            installation = self._find_installation()
            answer = self._ask_for_token(installation)
        self._known_installation = installation
        if answer.status == 201:
            token: AppToken = answer.decode(AppToken)
            return msgspec.structs.replace(token, installation_id=installation)
        raise self._cannot_mint(answer, installation)

    def _wanted(self) -> dict[str, str]:
        return APP_PERMISSIONS[self._scope.kind] if self._scope else {}

    def _ask_for_token(self, installation: int, permissions: dict[str, str] | None = None) -> Response:
        wanted = permissions or self._wanted()
        return self._client.post(
            f"/app/installations/{installation}/access_tokens",
            {"permissions": wanted} if wanted else None,
            what="mint the App's installation token",
            accept=(403, 404, 422),
            repeatable=True,
        )

    def _cannot_mint(self, answer: Response, installation: int) -> AccessError:
        return AccessError(
            f"cannot mint the App's installation token: GitHub answered {answer.status} ({answer.message})",
            where=f"App {self._app_id}, installation {installation}",
            remedy=_mint_remedy(answer.status, self._wanted()),
        )

    def _find_installation(self) -> int:
        """Ask for the scope's installation; where that is not answered, walk through all of the App's."""
        if self._scope is None:
            raise ConfigError(
                "the App's installation depends on the scope",
                where=self.source,
                remedy="give a URL (RUNNERCTL_URL), or set RUNNERCTL_APP_INSTALLATION_ID",
            )
        what = f"find the App's installation on {self._scope.name}"
        answer = self._client.get(f"{self._scope.path}/installation", what=what, accept=(404,))
        found = answer.json() if answer.status == 200 else self._walk(self._scope, what)
        if not found:
            raise AccessError(
                f"the App {self._app_id} is not installed on {self._scope.name}",
                where=self._scope.url,
                remedy="install it there, or give the RUNNERCTL_APP_ID of one that is",
            )
        if found.get("suspended_at"):
            raise AccessError(
                f"the App {self._app_id} is suspended on {self._scope.name}",
                where=self._scope.url,
                remedy="ask an owner there to unsuspend it",
            )
        return int(found["id"])

    def _walk(self, scope: Scope, what: str) -> dict[str, Any] | None:
        owner = scope.name.split("/", 1)[0].casefold()
        for item in self._client.pages("/app/installations", what=what):
            account = item.get("account") or {}
            names = {str(account.get(field) or "").casefold() for field in ("login", "slug")}
            if owner in names:
                return item
        return None


def _mint_remedy(status: int, wanted: dict[str, str]) -> str:
    if status == 422 and wanted:
        rights = ", ".join(f"{name}: {access}" for name, access in wanted.items())
        return f"grant the App {rights} in its settings, and accept that on the installation"
    if status == 403:
        return "ask an owner whether the installation is suspended"
    return "check RUNNERCTL_APP_INSTALLATION_ID, or leave it out: it is found by itself"
