from __future__ import annotations

import msgspec
from hypothesis import given as sampled
from hypothesis import strategies as st
from msgspec import Struct

from core.host import Host, HostLeft, HostLost, LeaveHost, LoseHost, RegisterHost
from tests.given import History, given, registered

REGISTER = RegisterHost(host_id="h", name="box", session="s1", executors=["python", "command"], slots=8)
LOST = HostLost(session="s1", reason="silence")
# Each event beside its record in logs out there: it is written and read so for ever.
GOLDEN = [
    (registered(), 'host.registered/1 {"name":"box","session":"s1","executors":["command","python"],"slots":8}'),
    (HostLost(session="s1", reason="silence"), 'host.lost/1 {"session":"s1","reason":"silence"}'),
    (HostLeft(session="s1"), 'host.left/1 {"session":"s1"}'),
]


def test_a_host_begins_a_session() -> None:
    state = given().when(REGISTER).then(registered(executors=["command", "python"]))
    assert state == Host(session="s1", last_session="s1")


def test_a_session_begins_once() -> None:
    given(registered()).when(REGISTER).then()


def test_a_restart_begins_a_new_session_in_place_of_the_old_one() -> None:
    state = given(registered()).when(msgspec.structs.replace(REGISTER, session="s2")).then(registered(session="s2"))
    assert state == Host(session="s2", last_session="s2")


def test_a_lost_or_left_host_may_come_back() -> None:
    for end in (LOST, HostLeft(session="s1")):
        given(registered(), end).when(msgspec.structs.replace(REGISTER, session="s2")).then(registered(session="s2"))


def test_the_living_session_can_be_lost_or_leave() -> None:
    ended = Host(session=None, last_session="s1")
    assert given(registered()).when(LoseHost(host_id="h", session="s1", reason="silence")).then(LOST) == ended
    assert given(registered()).when(LeaveHost(host_id="h", session="s1")).then(HostLeft(session="s1")) == ended


def test_a_session_that_is_over_is_neither_lost_nor_left() -> None:
    histories = ((registered(), LOST), (registered(), HostLeft(session="s1")), (registered(), registered(session="s2")))
    for history in histories:
        given(*history).when(LoseHost(host_id="h", session="s1", reason="silence")).then()
        given(*history).when(LeaveHost(host_id="h", session="s1")).then()


SESSIONS = st.sampled_from(["s1", "s2", "s3"])
COMMANDS = st.one_of(
    st.builds(lambda session: msgspec.structs.replace(REGISTER, session=session), SESSIONS),
    st.builds(LoseHost, host_id=st.just("h"), session=SESSIONS, reason=st.just("silence")),
    st.builds(LeaveHost, host_id=st.just("h"), session=SESSIONS),
)


@sampled(st.lists(COMMANDS, max_size=20))
def test_one_session_lives_at_a_time_and_a_repeat_decides_nothing(commands: list[Struct]) -> None:
    history = History()
    history.execute(REGISTER)
    for command in commands:
        before = history.states["host", "h"].session
        happened = history.execute(command) is not None
        after = history.states["host", "h"].session
        named = command.session  # type: ignore[attr-defined]
        if isinstance(command, RegisterHost):
            assert (after, happened) == (named, before != named)
        else:
            assert (after, happened) == ((None, True) if before == named else (before, False))
        assert history.execute(command) is None
