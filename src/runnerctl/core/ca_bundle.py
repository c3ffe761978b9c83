"""A site's own certification authorities, as a PEM file."""

from __future__ import annotations

import re

__all__ = ["MAX_BYTES", "certificates", "wrong_ca_bundle"]

MAX_BYTES = 1 << 20  # the whole of Mozilla's list has a fifth of it
_BLOCK = re.compile(r"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----.*?-----END [A-Z0-9 ]+-----", re.DOTALL)


def certificates(text: str) -> str:
    """The certificates of a PEM file and nothing else; empty when it holds none."""
    return "".join(f"{block}\n" for block in _BLOCK.findall(text.replace("\r\n", "\n")))


def wrong_ca_bundle(text: str) -> str | None:
    """What is wrong with a CA bundle, or None. The file goes to hosts, where every job can read it."""
    import ssl  # few plays need it, and it is not cheap

    if "PRIVATE KEY-----" in text:
        return "holds a private key"
    found = certificates(text)
    if not found:
        return "holds no certificate in PEM form"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=found)
    except (ssl.SSLError, ValueError):
        return "holds a certificate that cannot be read"
    return None
