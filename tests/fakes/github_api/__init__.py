"""A stand-in for GitHub: REST API, runner side and job queue, held to GitHub's OpenAPI description."""

from __future__ import annotations

from tests.fakes.github_api.control import Control
from tests.fakes.github_api.server import GithubApi

__all__ = ["Control", "GithubApi"]
