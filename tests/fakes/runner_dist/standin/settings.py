"""The files a registration leaves in the runner's root."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

from .context import RunnerError

RUNNER, CREDENTIALS, KEY = ".runner", ".credentials", ".credentials_rsaparams"
FILES = (RUNNER, CREDENTIALS, KEY)
_MIGRATED = (".runner_migrated", ".credentials_migrated")


class Settings:
    """Reads and writes ``.runner`` and the credential files under one root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def is_configured(self) -> bool:
        """Whether ``.runner`` is there."""
        return (self.root / RUNNER).exists()

    def has_credentials(self) -> bool:
        """Whether ``.credentials`` is there."""
        return (self.root / CREDENTIALS).exists()

    def is_service(self) -> bool:
        """Whether ``svc.sh install`` left its mark."""
        return (self.root / ".service").exists()

    def load(self) -> dict[str, Any]:
        """Content of ``.runner`` with lower-cased keys."""
        return {name.lower(): value for name, value in self._read(RUNNER).items()}

    def secret(self) -> str:
        """The runner's session key."""
        key = self._read(KEY)
        secret = key.get("d") or key.get("secret") or self._read(CREDENTIALS).get("data", {}).get("secret")
        if not secret:
            raise RunnerError(f"No key in {self.root / KEY}.")
        return str(secret)

    def save(self, runner: dict[str, Any], *, client_id: str, secret: str) -> None:
        """Write all three files. ``.runner`` gets a byte order mark and omits empty members, as .NET does."""
        kept = {name: value for name, value in runner.items() if value not in (None, False, "")}
        credentials = {
            "scheme": "OAuth",
            "data": {
                "clientId": client_id,
                "authorizationUrl": f"{runner['serverUrl']}/oauth2/token",
                "requireFipsCryptography": "False",
            },
        }
        self._write(RUNNER, "\ufeff" + json.dumps(kept, indent=2))
        self._write(CREDENTIALS, json.dumps(credentials, indent=2))
        self._write(KEY, json.dumps({"d": secret, "exponent": "AQAB"}), mode=0o600)

    def save_jit(self, encoded: str) -> None:
        """Unpack a just-in-time configuration: base64 of an object of file names and base64 contents."""
        try:
            files = json.loads(base64.b64decode(encoded, validate=True))
            contents = {str(name): base64.b64decode(value) for name, value in files.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise RunnerError(f"The provided JIT config is not valid: {error}") from error
        for name, data in contents.items():
            if name in (".", "..") or "/" in name:
                raise RunnerError(f"The provided JIT config names a file outside the root: {name!r}")
            try:
                (self.root / name).write_bytes(data)
            except OSError as error:
                raise _denied(error) from error

    def delete(self, *names: str) -> None:
        """Remove the named files (default: everything a registration wrote).

        Raises RunnerError when the directory does not let them go.
        """
        try:
            for name in names or (*_MIGRATED, CREDENTIALS, KEY, RUNNER):
                (self.root / name).unlink(missing_ok=True)
        except OSError as error:
            raise _denied(error) from error

    def _read(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads((self.root / name).read_text(encoding="utf-8-sig"))
        except FileNotFoundError as error:
            raise RunnerError(f"Could not find file '{self.root / name}'.") from error
        except OSError as error:
            raise _denied(error) from error
        except ValueError as error:
            raise RunnerError(f"Unexpected content in '{self.root / name}': {error}") from error
        if not isinstance(value, dict):
            raise RunnerError(f"Unexpected content in '{self.root / name}'.")
        return value

    def _write(self, name: str, text: str, *, mode: int | None = None) -> None:
        try:
            (self.root / name).write_text(text + "\n", encoding="utf-8")
            if mode is not None:
                os.chmod(self.root / name, mode)
        except OSError as error:
            raise _denied(error) from error


def _denied(error: OSError) -> RunnerError:
    return RunnerError(f"An error occurred: Access to the path '{error.filename}' is denied.")
