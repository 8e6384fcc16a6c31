"""How this machine reaches the world: a company's certificates and proxies, passed on to whatever downloads."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import InputError

# pip, uv and everything on OpenSSL, requests (docker-py, data sources), curl.
_CERTIFICATES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_BUNDLE = "BENCH_CA_BUNDLE"
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")


@contextmanager
def trusting(given: Path | None) -> Iterator[None]:
    """Trust the certificates in a PEM file meanwhile, in every program that is started; None for BENCH_CA_BUNDLE.

    raises  InputError: the file is absent or holds no certificate
    """
    named = str(given) if given else os.environ.get(_BUNDLE)
    if not named:
        yield
        return
    path = _readable(named, "--ca-bundle" if given else _BUNDLE)
    names = (*_CERTIFICATES, _BUNDLE)
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(path)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def ca_bundle() -> bytes:
    """The certificates to trust, for a step inside a container that needs a network; empty where none were given."""
    named = os.environ.get(_BUNDLE)
    return Path(named).expanduser().read_bytes() if named else b""


def proxies() -> dict[str, str]:
    """The proxy variables of this process, in both spellings, as build arguments: those are kept in no image."""
    found: dict[str, str] = {}
    for name in _PROXIES:
        value = os.environ.get(name) or os.environ.get(name.lower())
        if value:
            found |= {name: value, name.lower(): value}
    return found


def _readable(named: str, origin: str) -> Path:
    try:
        path = Path(named).expanduser().resolve()
        ssl.create_default_context(cafile=str(path))
    except (OSError, RuntimeError) as error:  # the latter: ~nobody-of-that-name
        why = getattr(error, "strerror", "there is no such folder") or "it holds no PEM certificate"
        raise InputError(f"{origin} {named}: {why}; name a file of certificates in PEM format") from None
    return path
