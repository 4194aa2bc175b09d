"""Whose turn it is, and what a limit holds back."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from core.kernel.errors import Unprocessable
from core.limit import LimitChanged, SetLimit, limit_id
from core.scheduling.images import fleet_of, image_of
from core.scheduling.limits import Limits
from core.scheduling.policy import next_due_ms
from core.scheduling.shares import Shares
from core.task import TaskCancelled
from tests.given import NOW_MS, History
from tests.scene import Scene, names

# Each event beside its record in logs out there: it is written and read so for ever.
GOLDEN = [
    (
        LimitChanged(key="api", concurrency=4, rate_per_s=2.5, burst=3, weight=2.0),
        'limit.changed/1 {"key":"api","concurrency":4,"rate_per_s":2.5,"burst":3,"weight":2.0}',
    ),
    (LimitChanged(key="api"), 'limit.changed/1 {"key":"api"}'),
]


def busy(slots: int = 2) -> Scene:
    """Given one agent with so many slots."""
    return Scene().host(slots=slots).agent(slots=slots)


def flood(scene: Scene, key: str, count: int, **changed: object) -> Scene:
    for number in range(count):
        scene.task(f"{key}{number}", fairness_key=key, **changed)
    return scene


# Shares


def test_a_key_that_floods_leaves_the_others_their_turns() -> None:
    scene = flood(busy(), "big", 50)
    flood(flood(scene, "a", 3), "b", 3)
    ran = [task for _ in range(8) for task in scene.runs()]
    assert {task for task in ran if task[0] in "ab" and not task.startswith("big")} == {
        *("a0", "a1", "a2"),
        *("b0", "b1", "b2"),
    }


def test_keys_share_by_their_weights() -> None:
    scene = busy().limit("heavy", weight=3.0)
    flood(flood(scene, "heavy", 60), "light", 60)
    ran = Counter(task.rstrip("0123456789") for _ in range(20) for task in scene.runs())
    assert ran == {"heavy": 30, "light": 10}


def test_principals_share_equally_however_many_keys_each_has() -> None:
    scene = busy()
    for key in ("x", "y", "z"):
        flood(scene, key, 20, actor="ann")
    flood(scene, "w", 20, actor="bob")
    ran = Counter(task[0] == "w" for _ in range(12) for task in scene.runs())
    assert ran == {True: 12, False: 12}


def test_slot_time_is_shared_and_not_the_number_of_tasks() -> None:
    shares = Shares()
    for flow in (("ada", "slow"), ("ada", "fast")):
        shares.enter(flow)
    for _ in range(20):
        shares.settle(("ada", "slow"), "long", 0.0, 4_000.0, 1.0)
        shares.settle(("ada", "fast"), "short", 0.0, 1_000.0, 1.0)
    served: Counter[str] = Counter()
    for _ in range(50):
        flow = min((("ada", "slow"), ("ada", "fast")), key=shares.key_tag)
        type_ = "long" if flow[1] == "slow" else "short"
        shares.charge(flow, shares.cost(type_), 1.0)
        served[flow[1]] += 1
    assert served == {"slow": 10, "fast": 40}


def test_who_was_idle_gets_no_credit_for_it() -> None:
    scene = busy(1)
    flood(scene, "a", 30)
    for _ in range(20):
        scene.runs()
    flood(scene, "b", 30)
    ran = Counter(task[0] for _ in range(10) for task in scene.runs())
    assert ran == {"a": 5, "b": 5}


def test_a_principal_that_was_idle_gets_no_credit_for_it_either() -> None:
    scene = busy(1)
    flood(scene, "a", 30, actor="ann")
    for _ in range(20):
        scene.runs()
    flood(scene, "b", 30, actor="bob")
    ran = Counter(task[0] for _ in range(10) for task in scene.runs())
    assert ran["a"] >= 4


def test_inside_a_key_priority_and_age_decide() -> None:
    scene = busy(1).task("late", fairness_key="k", priority=5).task("urgent", fairness_key="k", priority=9)
    assert [scene.runs(), scene.runs()] == [["urgent"], ["late"]]


def test_the_shares_of_who_is_gone_are_forgotten() -> None:
    scene = busy(1)
    for number in range(300):
        scene.task(f"t{number}", actor=f"p{number}", fairness_key=f"k{number}")
        assert scene.runs() == [f"t{number}"]
    scene.decides()
    assert scene.fleet.shares.principals == {}


# Limits on concurrency


def test_a_concurrency_key_without_a_limit_lets_one_run_and_holds_up_nobody_else() -> None:
    scene = busy(4).task("t0", concurrency_key="db").task("t1", concurrency_key="db").task("free")
    assert scene.runs() == ["t0", "free"]
    assert scene.runs() == ["t1"]


def test_a_limit_is_one_for_all_lines_flows_and_principals() -> None:
    scene = busy(8).limit("db", concurrency=2)
    scene.task("t0", concurrency_key="db").task("t1", concurrency_key="db", fairness_key="other")
    scene.task("t2", concurrency_key="db", requires=["shell"]).task("t3", concurrency_key="db", actor="bob")
    assert (len(scene.runs()), len(scene.runs()), scene.runs()) == (2, 2, [])


def test_a_limit_of_nothing_holds_all_back_until_it_is_set_anew() -> None:
    scene = busy().limit("db", concurrency=0).task("t", concurrency_key="db")
    assert scene.runs() == []
    assert scene.limit("db", concurrency=1).runs() == ["t"]


def test_what_is_under_way_holds_its_key() -> None:
    scene = busy(4).task("t0", concurrency_key="db").task("t1", concurrency_key="db")
    [decision] = scene.decides()
    scene.overlay.hold(decision.key, decision.claim)
    assert scene.decides() == []
    scene.overlay.settle("t0", scene.fleet.position)
    scene.overlay.sweep(scene.fleet)
    assert names(scene.decides()) == [("t0", "a")]


def test_a_refused_assignment_lets_the_next_of_another_flow_through() -> None:
    scene = busy(4).task("t0", concurrency_key="db").task("t1", concurrency_key="db", fairness_key="other")
    [first] = scene.decides()
    scene.overlay.hold(first.key, first.claim)
    assert scene.decides() == []
    scene.has("task", "t0", TaskCancelled()).overlay.settle("t0", scene.fleet.position)
    scene.decides()
    scene.overlay.sweep(scene.fleet)
    assert names(scene.decides()) == [("t1", "a")]


# Limits on rate


def test_a_rate_lets_its_burst_through_and_then_one_after_the_other() -> None:
    scene = busy(8).limit("api", rate_per_s=2.0, burst=3)
    for number in range(6):
        scene.task(f"t{number}", rate_key="api")
    assert scene.runs(took_ms=0) == ["t0", "t1", "t2"]
    assert (scene.runs(took_ms=0), next_due_ms(scene.fleet)) == ([], NOW_MS + 500)
    scene.history.now_ms += 500
    assert scene.runs(took_ms=0) == ["t3"]
    scene.history.now_ms += 60_000
    assert scene.runs(took_ms=0) == ["t4", "t5"]


def test_a_clock_that_goes_back_a_little_gives_no_tokens() -> None:
    limits = Limits()
    limits.fold(LimitChanged(key="api", rate_per_s=1.0, burst=1), NOW_MS)
    limits.take("api", NOW_MS)
    assert limits.due_ms("api", NOW_MS - 50_000, Counter()) is not None
    limits.take("api", NOW_MS - 50_000)
    assert limits.tokens("api", NOW_MS) == -1.0


def test_a_clock_that_was_set_back_does_not_hold_a_rate_up_for_as_long() -> None:
    scene = busy(8).limit("api", rate_per_s=1.0, burst=1)
    for number in range(3):
        scene.task(f"t{number}", rate_key="api")
    assert scene.runs(took_ms=0) == ["t0"]
    assert scene.runs(took_ms=0) == []
    scene.history.now_ms -= 3_600_000
    assert scene.runs(took_ms=0) == ["t1"]
    assert scene.runs(took_ms=999) == []
    scene.history.now_ms += 1
    assert scene.runs(took_ms=0) == ["t2"]


def test_flows_that_begin_anew_without_end_do_not_keep_others_from_their_next_turn() -> None:
    scene = busy(1)
    flood(scene, "old", 2)
    assert scene.runs() == ["old0"]
    flood(scene, "first", 1)
    for number in range(40):
        flood(scene, f"once{number}-", 1)
        if scene.runs() == ["old1"]:
            return
    raise AssertionError("it never came again")


def test_principals_that_begin_anew_without_end_do_not_keep_others_from_their_next_turn() -> None:
    scene = busy(1)
    flood(scene, "old", 2, actor="ann")
    assert scene.runs() == ["old0"]
    flood(scene, "first", 1, actor="bob")
    for number in range(40):
        flood(scene, f"once{number}-", 1, actor=f"somebody {number}")
        if scene.runs() == ["old1"]:
            return
    raise AssertionError("it never came again")


def test_an_image_of_the_fleet_keeps_limits_and_shares() -> None:
    scene = busy(8).limit("api", rate_per_s=2.0, burst=3).limit("db", concurrency=2)
    scene.task("t0", rate_key="api", concurrency_key="db")
    scene.runs()
    scene.decides()
    again = fleet_of(image_of(scene.fleet))
    assert (again.limits, again.shares) == (scene.fleet.limits, scene.fleet.shares)


# The aggregate


def test_a_limit_is_set_once_and_again_only_when_it_differs() -> None:
    history = History()
    history.execute(SetLimit(key="api", rate_per_s=2.5))
    assert history.states["limit", limit_id("api")].spec == LimitChanged(key="api", rate_per_s=2.5, burst=3)
    assert history.execute(SetLimit(key="api", rate_per_s=2.5)) is None
    assert history.execute(SetLimit(key="api", concurrency=4)) is not None


def test_a_burst_without_a_rate_is_refused() -> None:
    with pytest.raises(Unprocessable) as refused:
        History().execute(SetLimit(key="api", burst=3))
    assert (refused.value.code, refused.value.pointer) == ("invalid_field", "/burst")


@pytest.mark.parametrize("spec", [{"rate_per_s": 1e-310}, {"rate_per_s": 0.0}, {"weight": 1e-308}, {"weight": 0.0}])
def test_what_would_divide_to_infinity_is_no_limit(spec: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"key": "api", **spec}, SetLimit)


def test_a_line_stays_as_short_as_its_flows_however_often_they_are_served() -> None:
    scene = flood(busy(), "big", 200)
    for _ in range(90):
        scene.runs()
    [line] = scene.fleet.waiting._lines.values()
    [part] = line.parts.values()
    orders = (line.order, part.order, *(queue.order for queue in part.queues.values()))
    assert max(len(order._heap) for order in orders) <= 4
