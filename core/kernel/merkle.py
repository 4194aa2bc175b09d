"""The Merkle tree over the commits (RFC 9162, 2.1; the same hashes as RFC 6962).

A log that keeps only the roots of its complete subtrees, at most 64 hashes, can append and state its root for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from struct import Struct

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

# 0x00 marks a leaf and 0x01 a node, so that neither can be passed off as the other.
_NODE = b"\x01"
_leaf_head = Struct(">xQH").pack
_head_numbers = Struct(">QQ").pack


def leaf_hash(position: int, subject: str, body: bytes) -> bytes:
    """The leaf of a commit: SHA-256(0x00 || position as 8 bytes || length of subject as 2 bytes || subject || body).

    Numbers are big-endian, the subject is UTF-8 and at most 65,535 bytes; the body is hashed as it is stored.
    """
    name = subject.encode()
    return sha256(_leaf_head(position, len(name)) + name + body).digest()


def head_message(size: int, root: bytes, signed_ms: int) -> bytes:
    """The bytes that a signed head signs: `hivebus head v1`, NUL, size and Unix milliseconds (8 bytes each), root."""
    return b"hivebus head v1\0" + _head_numbers(size, signed_ms) + root


class Frontier:
    """The roots of the complete subtrees of a growing tree, largest first: one for each set bit of its size."""

    __slots__ = ("_peaks", "_size")

    def __init__(self) -> None:
        self._peaks: list[bytes] = []
        self._size = 0

    @classmethod
    def decode(cls, size: int, peaks: Sequence[bytes]) -> Frontier:
        """The frontier that `encode` gave at this size. Raises ValueError where the two cannot belong together."""
        if len(peaks) != size.bit_count() or any(len(peak) != HASH_BYTES for peak in peaks):
            raise ValueError(f"{len(peaks)} hashes are no frontier of a tree of {size} leaves")
        frontier = cls()
        frontier._peaks = list(peaks)
        frontier._size = size
        return frontier

    def encode(self) -> tuple[bytes, ...]:
        """The hashes, largest subtree first; with `size` they are the whole state."""
        return tuple(self._peaks)

    @property
    def size(self) -> int:
        """How many leaves the tree has."""
        return self._size

    def append(self, leaf: bytes) -> None:
        """Add the next leaf: one or two hashes on average, at most 64."""
        peaks = self._peaks
        carry = self._size
        # As in adding one to a binary number: each trailing one bit is a complete subtree to merge with.
        while carry & 1:
            leaf = sha256(_NODE + peaks.pop() + leaf).digest()
            carry >>= 1
        peaks.append(leaf)
        self._size += 1

    def root(self) -> bytes:
        """The tree head at this size; SHA-256 of nothing for the empty tree."""
        if not self._peaks:
            return EMPTY_ROOT
        *larger, root = self._peaks
        for peak in reversed(larger):
            root = sha256(_NODE + peak + root).digest()
        return root
