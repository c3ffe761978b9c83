"""The environment that a runner and its jobs are given."""

from __future__ import annotations

from runnerctl.core.sections import HostSpec, Runnerctl

__all__ = ["CA_FILE", "SITE_CA_FILE", "proxy_environment", "slot_environment"]

CA_FILE = "/etc/runnerctl/ca.pem"  # the system's authorities and the site's
SITE_CA_FILE = "/etc/runnerctl/site-ca.pem"  # the site's alone
# What these name replaces the program's own list, so it must hold both. In this order: OpenSSL (with it .NET
# and Python), requests (with it conda), pip, curl, git.
_REPLACED = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO")
_ADDED = "NODE_EXTRA_CA_CERTS"  # and this one is added to Node's own
_LOCAL = ("localhost", "127.0.0.1", "::1")


def proxy_environment(network: Runnerctl) -> dict[str, str]:
    """The proxies as programs expect them, in lower case: the runner gives its jobs both spellings."""
    found = {"http_proxy": network.http_proxy, "https_proxy": network.https_proxy}
    proxies = {name: url for name, url in found.items() if url}
    exceptions = dict.fromkeys((*network.no_proxy, *_LOCAL))  # a job's own services need no proxy
    return {**proxies, "no_proxy": ",".join(exceptions)} if proxies else {}


def slot_environment(spec: HostSpec) -> dict[str, str]:
    """The runner's environment: where conda is (``setup-miniconda`` reads ``CONDA``), proxies, the site's CA.

    What inventory gives itself wins, in whichever case it is spelt.
    """
    made = {"CONDA": "/opt/miniforge3"} if spec.conda.manage else {}
    made |= proxy_environment(spec.runnerctl)
    if spec.runnerctl.ca_bundle:
        made |= {**dict.fromkeys(_REPLACED, CA_FILE), _ADDED: SITE_CA_FILE}
    given = spec.github_runner.env
    kept = {name: value for name, value in made.items() if name.upper() not in given}
    return {**kept, **given}
