"""The Ed25519 key that signs the heads of the log: one private file in the data directory."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from adapters.jetstream.broker_files import write_private
from core.kernel.errors import StartRefused

FILE = "signing.key"


class FileSigner:
    """Signer with the key of a file: 32 bytes in hex, mode 0600, made at the first start."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.key_id = key_id_of(key.public_key())

    @classmethod
    def open(cls, root: Path) -> FileSigner:
        """The key of a data directory. Raises StartRefused for a file that holds none."""
        key = _load(root / FILE)
        if key is None:
            key = Ed25519PrivateKey.generate()
            write_private(root / FILE, key.private_bytes_raw().hex() + "\n")
        return cls(key)

    def sign(self, message: bytes) -> bytes:
        """See Signer."""
        return self._key.sign(message)


class Verifier:
    """Checks signatures with the public half of a data directory's key."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        self.key_id = key_id_of(key)

    @classmethod
    def open(cls, root: Path) -> Verifier | None:
        """None where the directory has no key yet."""
        key = _load(root / FILE)
        return cls(key.public_key()) if key is not None else None

    def holds(self, message: bytes, signature: bytes) -> bool:
        """Whether this key signed the message."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


def key_id_of(key: Ed25519PublicKey) -> str:
    """See Signer.key_id."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _load(path: Path) -> Ed25519PrivateKey | None:
    try:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text().strip()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StartRefused(
            f"The signing key in {path} cannot be read: {error}.",
            remedy="Put the file back from a backup: without it nothing shows that the older heads are genuine.",
        ) from None
