"""What clients of the broker see: two roots of subjects, and the one user that they log in as."""

from __future__ import annotations

COMMANDS = "hive.cmd"
EVENTS = "hive.event"
DISCOVERY = "$SRV"
CLIENT_USER = "client"
# Its own, so that no client hears what others are answered: `_INBOX.>` is everybody's.
CLIENT_INBOX = "_INBOX_client"
PAYLOAD_MAX_BYTES = 1024 * 1024
