"""What others see of the broker: the subjects and the user of clients, and those of agent hosts."""

from __future__ import annotations

COMMANDS = "hive.cmd"
EVENTS = "hive.event"
DISCOVERY = "$SRV"
CLIENT_USER = "client"
# Its own, so that no client hears what others are answered: `_INBOX.>` is everybody's.
CLIENT_INBOX = "_INBOX_client"

HOST_ROOT = "hive.host"
HOST_COMMANDS = f"{HOST_ROOT}.cmd"
HOST_BEAT = f"{HOST_ROOT}.beat"
HOST_USER = "hosts"
HOST_INBOX = "_INBOX_hosts"

PAYLOAD_MAX_BYTES = 1024 * 1024
