"""A host's own way to GitHub, for commands run there: what host.json says of proxies and CA."""

from __future__ import annotations

import os
from collections.abc import Mapping

from runnerctl.core.environment import CA_FILE, slot_environment
from runnerctl.core.spec import HostSpec

__all__ = ["host_network"]

PROXIES = ("http_proxy", "https_proxy", "no_proxy")
# Any of them is somebody's word, in the order of runnerctl.github.trust.
BUNDLES = ("RUNNERCTL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")


def host_network(spec: HostSpec, env: Mapping[str, str], *, ca_file: str = CA_FILE) -> Mapping[str, str]:
    """``env`` with the proxies and authorities that the host's runners have, where it names none itself.

    The proxies go into the environment of this process as well: requests looks for them there.
    """
    known = slot_environment(spec)
    added = {
        name: value
        for name in PROXIES
        if (value := known.get(name) or known.get(name.upper())) and not _named(env, name)
    }
    os.environ.update(added)
    if spec.runnerctl.ca_bundle and os.path.isfile(ca_file) and not any(env.get(name) for name in BUNDLES):
        added["RUNNERCTL_CA_BUNDLE"] = ca_file
    return {**env, **added}


def _named(env: Mapping[str, str], name: str) -> bool:
    return bool(env.get(name) or env.get(name.upper()))
