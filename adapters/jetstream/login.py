"""What a login needs beside a password, and why a broker did not let us in, each reason with its remedy."""

from __future__ import annotations

import ssl
from importlib import import_module
from pathlib import Path

from adapters.jetstream.broker import Access
from adapters.jetstream.wire import NoTls
from core.kernel.errors import StartRefused

_CLIENT_CERTIFICATE_ALERTS = ("CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "UNKNOWN_CA", "CERTIFICATE_UNKNOWN")


def tls_context(access: Access) -> ssl.SSLContext | None:
    """The TLS settings, None where none were asked for. Raises StartRefused for a file that cannot be used."""
    if not access.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=str(access.ca) if access.ca else None)
    except (OSError, ssl.SSLError) as error:
        raise _unusable("HIVEBUS_NATS_CA", access.ca, error) from None
    if access.certificate:
        try:
            context.load_cert_chain(access.certificate, access.key)
        except (OSError, ssl.SSLError) as error:
            raise _unusable("HIVEBUS_NATS_CERT or HIVEBUS_NATS_KEY", access.certificate, error) from None
    return context


def credentials_file(access: Access) -> str | None:
    """The path of a credentials file that was tried out. Raises StartRefused where it cannot be used."""
    path = access.credentials
    if path is None:
        return None
    try:
        nkeys = import_module("nkeys")
    except ImportError:
        raise StartRefused(
            "HIVEBUS_NATS_CREDS needs the package nkeys, which is not installed.",
            remedy="pip install 'hivebus[nkeys]', or log in with HIVEBUS_NATS_USER and HIVEBUS_NATS_PASSWORD.",
        ) from None
    try:
        text = path.read_text()
        jwt, seed = (_section(text, name) for name in ("NATS USER JWT", "USER NKEY SEED"))
        nkeys.from_seed(bytearray(seed.encode())).wipe()
        if jwt.count(".") != 2:
            raise ValueError("no JWT in it")
    except Exception as error:  # whatever nkeys thinks of a broken seed
        # Never the error's own text: it may quote the seed.
        why = error.strerror if isinstance(error, OSError) else "it is no credentials file of a NATS user"
        raise StartRefused(
            f"HIVEBUS_NATS_CREDS: {path} cannot be used: {why}.",
            remedy="Give the file that `nsc generate creds` writes, readable by this user.",
        ) from None
    return str(path)


def _section(text: str, name: str) -> str:
    return text.split(f"BEGIN {name}-----", 1)[1].split("-----", 1)[0].strip()


def _unusable(setting: str, path: Path | None, error: OSError) -> StartRefused:
    why = (error.reason or "not understood") if isinstance(error, ssl.SSLError) else error.strerror
    return StartRefused(
        f"{setting}: {path} cannot be used: {why}.",
        remedy=f"Give PEM files that this user may read: {setting}.",
    )


def refusal(error: Exception, access: Access) -> StartRefused | None:
    """Why trying again would not help; None for an error that may pass."""
    where = f"The broker at {access.shown}"
    if isinstance(error, NoTls):
        return StartRefused(
            f"{where} does not require TLS, and without it the password would travel in the open.",
            remedy="Switch TLS on in the server, or use nats:// without HIVEBUS_NATS_CA where the network is trusted.",
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return StartRefused(
            f"{where} showed a certificate that cannot be verified: {error.verify_message}.",
            remedy="Set HIVEBUS_NATS_CA to the file of the authority that signed it, and use a name that it holds.",
        )
    if isinstance(error, ssl.SSLError):
        reason = error.reason or "no reason given"
        if any(alert in reason for alert in _CLIENT_CERTIFICATE_ALERTS):
            return StartRefused(
                f"{where} did not accept this client's certificate: {reason}.",
                remedy="Set HIVEBUS_NATS_CERT and HIVEBUS_NATS_KEY to one that the server's authority signed.",
            )
        return StartRefused(f"TLS with the broker at {access.shown} failed: {reason}.", remedy="See the server's log.")
    if "authorization violation" in str(error).lower():
        who = f"the user {access.user!r}" if access.user else "a login without a user"
        who = "the credentials of HIVEBUS_NATS_CREDS" if access.credentials else who
        return StartRefused(
            f"{where} refused {who}.",
            remedy="Check HIVEBUS_NATS_USER and HIVEBUS_NATS_PASSWORD, or HIVEBUS_NATS_CREDS, against its accounts.",
        )
    return None
