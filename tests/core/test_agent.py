from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given as sampled
from hypothesis import strategies as st
from msgspec import Struct

from core.agent import (
    Agent,
    AgentDraining,
    AgentRetired,
    AgentStopped,
    RemoveAgent,
    RetireAgent,
    SpawnAgent,
    StartAgent,
    StopAgent,
)
from core.kernel.commit import Event
from core.kernel.errors import Refused, Unprocessable
from core.kernel.ids import derive
from tests.given import History, command_id, fold, given, spawned, started

STARTING = (spawned(),)
IDLE = (*STARTING, started())
OFFLINE = (*IDLE, AgentStopped(reason="gone"))
DRAINING = (*IDLE, AgentDraining())
RETIRED = (*DRAINING, AgentRetired())
START = StartAgent(agent_id="a", host_id="h2", session="s2", term=4)
# Each event beside its record in logs out there: it is written and read so for ever.
GOLDEN = [
    (
        spawned(slots=2),
        'agent.spawned/1 {"type":"shell","name":"shelly","executor":"command","capabilities":["shell"],"slots":2}',
    ),
    (started(), 'agent.started/1 {"host_id":"h","session":"s1","term":1}'),
    (AgentStopped(reason="gone"), 'agent.stopped/1 {"reason":"gone"}'),
    (AgentDraining(reason="old"), 'agent.draining/1 {"reason":"old"}'),
    (AgentDraining(), "agent.draining/1 {}"),
    (AgentRetired(), "agent.retired/1 {}"),
]


def test_a_built_in_type_brings_its_executor_its_capabilities_and_a_name() -> None:
    suffix = str(derive(command_id(1), "agent"))[-6:]
    state = given().when(SpawnAgent(type="shell")).then(spawned(name=f"shell-{suffix}"))
    assert state == Agent(status="starting", spec=spawned(name=f"shell-{suffix}"))


def test_a_type_of_ones_own_says_everything_itself() -> None:
    command = SpawnAgent(type="painter", name="bob", executor="python", capabilities=["oil", "ink", "oil"], slots=3)
    given().when(command).then(
        spawned(type="painter", name="bob", executor="python", capabilities=["ink", "oil"], slots=3)
    )
    given().when(SpawnAgent(type="shell", name="bare", capabilities=[])).then(spawned(name="bare", capabilities=[]))


@pytest.mark.parametrize(
    ("command", "pointer"),
    [
        (SpawnAgent(type="painter"), "/type"),
        (SpawnAgent(type="painter", executor="brush"), "/executor"),
        (SpawnAgent(type="shell", executor="brush"), "/executor"),
    ],
    ids=["an unknown type", "an unknown executor", "a known type with an unknown executor"],
)
def test_an_agent_that_could_never_work_is_not_spawned(command: SpawnAgent, pointer: str) -> None:
    given().when(command).then_raises(Unprocessable, code="unknown_agent_type", pointer=pointer)


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"slots": 257}, {"type": " "}, {"name": ""}, {"size": 1}], ids=str)
def test_a_spawn_outside_its_bounds_does_not_decode(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"type": "shell", **wrong}, SpawnAgent)


@pytest.mark.parametrize("history", [STARTING, IDLE, OFFLINE], ids=["starting", "idle", "offline"])
def test_an_agent_that_is_not_wanted_any_more_drains(history: tuple[Event, ...]) -> None:
    state = given(*history).when(RetireAgent(agent_id="a", reason="old")).then(AgentDraining(reason="old"))
    assert state == msgspec.structs.replace(fold("agent", history), status="draining")


@pytest.mark.parametrize("history", [DRAINING, RETIRED], ids=["draining", "retired"])
def test_retiring_twice_is_retiring_once(history: tuple[Event, ...]) -> None:
    given(*history).when(RetireAgent(agent_id="a")).then()


@pytest.mark.parametrize("history", [STARTING, IDLE, OFFLINE], ids=["starting", "idle", "offline"])
def test_a_wanted_agent_is_placed_on_a_session(history: tuple[Event, ...]) -> None:
    state = given(*history).when(START).then(started(host_id="h2", session="s2", term=4))
    assert state == Agent(status="idle", spec=spawned(), host_id="h2", session="s2")


@pytest.mark.parametrize("history", [DRAINING, RETIRED], ids=["draining", "retired"])
def test_an_unwanted_agent_is_not_placed_again(history: tuple[Event, ...]) -> None:
    given(*history).when(START).then()


def test_an_agent_is_placed_once_on_a_session() -> None:
    given(*IDLE).when(msgspec.structs.replace(START, session="s1")).then()


@pytest.mark.parametrize(("history", "status"), [(IDLE, "offline"), (DRAINING, "draining")])
def test_the_end_of_its_session_stops_an_agent_and_it_keeps_draining(history: tuple[Event, ...], status: str) -> None:
    state = given(*history).when(StopAgent(agent_id="a", session="s1", reason="gone")).then(AgentStopped(reason="gone"))
    assert state == Agent(status=status, spec=spawned())


def test_the_end_of_another_session_stops_nobody() -> None:
    given(*IDLE).when(StopAgent(agent_id="a", session="s0", reason="gone")).then()
    given(*OFFLINE).when(StopAgent(agent_id="a", session="s1", reason="gone")).then()


def test_only_a_draining_agent_is_removed_and_only_once() -> None:
    assert given(*DRAINING).when(RemoveAgent(agent_id="a")).then(AgentRetired()).status == "retired"
    given(*RETIRED).when(RemoveAgent(agent_id="a")).then()
    for history in (STARTING, IDLE, OFFLINE):
        given(*history).when(RemoveAgent(agent_id="a")).then_raises(Refused, code="illegal_transition")


COMMANDS = st.one_of(
    st.builds(StartAgent, agent_id=st.just("a"), host_id=st.just("h"), session=st.sampled_from("st"), term=st.just(1)),
    st.builds(StopAgent, agent_id=st.just("a"), session=st.sampled_from("st"), reason=st.just("gone")),
    st.just(RetireAgent(agent_id="a")),
    st.just(RemoveAgent(agent_id="a")),
)


@sampled(st.lists(COMMANDS, max_size=20))
def test_an_agent_moves_towards_retirement_only_and_a_repeat_decides_nothing(commands: list[Struct]) -> None:
    history = History()
    history.commit("agent", "a", spawned())
    seen = ["starting"]
    for command in commands:
        try:
            history.execute(command)
        except Refused:
            assert seen[-1] not in ("draining", "retired")
            continue
        assert history.execute(command) is None
        seen.append(history.states["agent", "a"].status)
    order = {"starting": 0, "idle": 0, "offline": 0, "draining": 1, "retired": 2}
    assert [order[status] for status in seen] == sorted(order[status] for status in seen)
    assert history.states["agent", "a"].session is None or seen[-1] in ("idle", "draining")
