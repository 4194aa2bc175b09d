"""`events/subscribe` and `events/unsubscribe`: what only a connection can be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct

from core.kernel.errors import NotFound, Refused, TooMany
from core.services.feed import Feed
from core.services.told import Filter
from entrypoints.calls import POSITION_MAX, fitted
from entrypoints.rpc.engine import Method, Session
from entrypoints.websocket.frames import batch_frame

if TYPE_CHECKING:
    from entrypoints.websocket.connection import Connection

SUBSCRIPTIONS_MAX = 16


class Subscribe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Be told of events: first those after a position (default: now), then each as it is recorded."""

    after: Annotated[int, Meta(ge=0, le=POSITION_MAX)] | None = None
    filter: Filter = Filter()


class Unsubscribe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Be told no more."""

    subscription_id: Annotated[str, Meta(min_length=1, max_length=64)]


def methods_of(connection: Connection, feed: Feed) -> Mapping[str, Method]:
    """The methods of one connection."""

    async def subscribe(params: dict[str, Any], _session: Session) -> dict[str, Any]:
        asked = fitted(params, Subscribe)
        subscription_id = asked.filter.subscription_id
        if subscription_id in connection.subscriptions:
            raise Refused(
                "This connection subscribes to that filter already.",
                code="already_subscribed",
                pointer="/filter",
                remedy="Call events/unsubscribe first.",
                subscription_id=subscription_id,
            )
        if len(connection.subscriptions) >= SUBSCRIPTIONS_MAX:
            raise TooMany(
                f"A connection has {SUBSCRIPTIONS_MAX} subscriptions at most.",
                code="too_many_subscriptions",
                remedy="Unsubscribe from one, take a wider filter, or open another connection.",
            )
        subscription = feed.subscribe(asked.filter, asked.after, connection, batch_frame)
        connection.subscribed(subscription)
        return {"subscription_id": subscription.id, "position": subscription.position}

    async def unsubscribe(params: dict[str, Any], _session: Session) -> dict[str, Any]:
        asked = fitted(params, Unsubscribe)
        subscription = connection.subscriptions.pop(asked.subscription_id, None)
        if subscription is None:
            raise NotFound(
                f"This connection has no subscription {asked.subscription_id!r}.",
                code="unknown_subscription",
                pointer="/subscription_id",
                remedy="events/subscribe answers with the id.",
            )
        subscription.end()
        return {"subscription_id": subscription.id, "position": subscription.position}

    return {"events/subscribe": subscribe, "events/unsubscribe": unsubscribe}
