"""Which channels an ``environment.yml`` may name: the same as inventory may."""

from __future__ import annotations

from runnerctl.core.channels import channel_fault, has_credentials, plain_url

__all__ = ["channel_fault", "has_credentials", "plain_url"]
