"""The part of the JetStream API that the log speaks: subjects, error codes, bodies, and stored messages as entries."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from adapters.jetstream.wire import header_of
from core.kernel.commit import Entry
from core.kernel.errors import Unavailable

STREAM = "HIVE"
STREAM_API = "$JS.API.STREAM"
STREAM_INFO = f"{STREAM_API}.INFO.{STREAM}"
LEADER_GET = f"{STREAM_API}.MSG.GET.{STREAM}"
STREAM_PURGE = f"{STREAM_API}.PURGE.{STREAM}"
DIRECT_GET = f"$JS.API.DIRECT.GET.{STREAM}"
CONSUMER_CREATE = f"$JS.API.CONSUMER.CREATE.{STREAM}"
CONSUMER_DELETE = f"$JS.API.CONSUMER.DELETE.{STREAM}"
CONSUMER_NEXT = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}"

# The names that make the stream a key-value bucket for the nats tool.
LEASE_STREAM = "KV_hivebus_leases"
LEASE_ROOT = "$KV.hivebus_leases."
LEASE_GET = f"{STREAM_API}.MSG.GET.{LEASE_STREAM}"
LEASE_DELETE = f"{STREAM_API}.MSG.DELETE.{LEASE_STREAM}"

COMMIT_ID = "Hive-Commit-Id"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
BATCH_ID = "Nats-Batch-Id"
BATCH_SEQUENCE = "Nats-Batch-Sequence"
BATCH_COMMIT = "Nats-Batch-Commit"

# server/errors.json of nats-server
STREAM_NOT_FOUND = 10059
WRONG_LAST_SEQUENCE = 10071
RIVAL_IN_FLIGHT = 10164
NOT_ENABLED = frozenset({10035, 10039, 10076})
TOO_FEW_SERVERS = frozenset({10005, 10074})
ELECTING = frozenset({10008, 10009})
FULL = frozenset({10002, 10023, 10028, 10047, 10077, 10120})


class ApiError(Struct, frozen=True):
    """What the server says when it refuses."""

    code: int
    err_code: int = 0
    description: str = ""


class Ack(Struct, frozen=True):
    """The answer to a publish."""

    seq: int = 0
    error: ApiError | None = None


class BatchAck(Struct, frozen=True):
    """The answer to a batch: `count` messages, the last at `seq`."""

    seq: int = 0
    count: int = 0
    error: ApiError | None = None


class StreamState(Struct, frozen=True):
    """How far the stream is."""

    last_seq: int


class StreamInfo(Struct, frozen=True):
    """The answer to stream info, create and update."""

    error: ApiError | None = None
    config: dict[str, object] = {}
    state: StreamState | None = None


class StoredMessage(Struct, frozen=True):
    """A message in the answer of the leader, headers and data out of base64."""

    subject: str
    seq: int
    hdrs: bytes = b""
    data: bytes = b""

    def entry(self) -> Entry:
        """The message as an entry."""
        return Entry(self.seq, self.subject, header_of(self.hdrs, COMMIT_ID.encode()).decode(), self.data)


class MessageAnswer(Struct, frozen=True):
    """The leader's answer to a message get."""

    error: ApiError | None = None
    message: StoredMessage | None = None


class Answer(Struct, frozen=True):
    """Any answer of which only the error matters."""

    error: ApiError | None = None


NO_RESPONDERS = Ack(error=ApiError(code=503, description="no responders"))

ack_of = msgspec.json.Decoder(Ack).decode
batch_ack_of = msgspec.json.Decoder(BatchAck).decode
stream_info_of = msgspec.json.Decoder(StreamInfo).decode
message_of = msgspec.json.Decoder(MessageAnswer).decode
answer_of = msgspec.json.Decoder(Answer).decode
encode = msgspec.json.Encoder().encode


def stored_entry(data: bytes, headers: bytes) -> Entry:
    """The entry in the answer to a direct get, whose own headers say where it is stored."""
    return Entry(
        position=int(header_of(headers, b"Nats-Sequence")),
        subject=header_of(headers, b"Nats-Subject").decode(),
        commit_id=header_of(headers, b"Hive-Commit-Id").decode(),
        body=data,
    )


def unreachable(what: str = "The event log cannot be reached.") -> Unavailable:
    """The error for an append or a read that did not happen."""
    return Unavailable(
        what,
        code="log_unavailable",
        retry_after_s=1,
        remedy="Nothing was stored. Try again; if it lasts, look at the broker's log and at `hivebus status`.",
    )
