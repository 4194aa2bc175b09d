"""What a task waits for, decided: dependencies, their results, approvals, questions, and parts of cancelled tasks."""

from __future__ import annotations

from typing import Any

import pytest

from core.kernel.errors import Forbidden, HivebusError, Refused, Unprocessable
from core.kernel.ids import derive
from core.process_managers.dependencies import Settlement
from core.services.batches import planned
from core.task import (
    ANSWER_MAX_BYTES,
    INPUTS_MAX_BYTES,
    QUESTIONS_MAX,
    AnswerTask,
    ApproveTask,
    AskTask,
    AttemptEnded,
    CancelChild,
    CancelRequested,
    CancelTask,
    DependenciesEnded,
    Dependency,
    DependencyEnd,
    RejectTask,
    SettleDependencies,
    SubmitTask,
    TaskAnswered,
    TaskApproved,
    TaskAsked,
    TaskBlocked,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskQueued,
    TaskRejected,
    TaskSubmitted,
    placed,
)
from core.task.inputs import NoPlace, chosen
from tests.given import NOW_MS, History, assigned, command_id, fold, given, submit, submitted
from tests.scene import Scene

PYTHON: dict[str, Any] = {"executor": "python", "agent_type": "python", "parameters": {"function": "f"}}


def data(task: str = "d", into: str = "/arguments/x", source: str | None = None) -> Dependency:
    return Dependency(type="data", task=task, into=into, source=source)


def approval(*by: str) -> Dependency:
    return Dependency(type="approval", by=list(by))


def blocked(*items: Dependency, **changed: Any) -> tuple[TaskSubmitted, TaskBlocked]:
    return submitted(**PYTHON, depends_on=list(items), **changed), TaskBlocked()


def ended(task: str = "d", status: str = "completed", position: int = 9) -> DependencyEnd:
    return DependencyEnd(task=task, status=status, position=position)


def settle(*ends: DependencyEnd, **more: Any) -> SettleDependencies:
    return SettleDependencies(task_id="t", ends=list(ends), **more)


FINISH = Dependency(task="d")
# Each event beside its record in logs out there: it is written and read so for ever.
GOLDEN = [
    (TaskBlocked(), "task.blocked/1 {}"),
    (
        DependenciesEnded(ends=[ended()], inputs={"/stdin": "x"}),
        'task.dependencies_ended/1 {"ends":[{"task":"d","status":"completed","position":9}],"inputs":{"/stdin":"x"}}',
    ),
    (
        DependenciesEnded(ends=[ended(status="failed")]),
        'task.dependencies_ended/1 {"ends":[{"task":"d","status":"failed","position":9}]}',
    ),
    (
        TaskApproved(by="ada", reason="fine", items=[0, 2]),
        'task.approved/1 {"by":"ada","reason":"fine","items":[0,2]}',
    ),
    (TaskRejected(by="ada", reason="no"), 'task.rejected/1 {"by":"ada","reason":"no"}'),
    (
        TaskAsked(fence=7, agent_id="a", question="which?", choices=["x", "y"], started_ms=NOW_MS),
        'task.asked/1 {"fence":7,"agent_id":"a","question":"which?","choices":["x","y"],"started_ms":1800000000000}',
    ),
    (TaskAsked(fence=7, agent_id="a", question="?"), 'task.asked/1 {"fence":7,"agent_id":"a","question":"?"}'),
    (TaskAnswered(question="which?", answer="x"), 'task.answered/1 {"question":"which?","answer":"x"}'),
]


# Submitting


def test_a_task_that_depends_on_something_is_blocked_and_keeps_what_it_asked_for() -> None:
    command = submit(depends_on=["d", Dependency(task="e")], on_dependency_failure="fail", parent="p")
    items = [Dependency(task="d"), Dependency(task="e")]
    state = (
        given().when(command).then(submitted(depends_on=items, on_dependency_failure="fail", parent="p"), TaskBlocked())
    )
    assert (state.status, state.open_tasks, state.open_approvals) == ("blocked", {"d", "e"}, set())


@pytest.mark.parametrize(
    ("item", "code", "pointer"),
    [
        (Dependency(), "missing_field", "/depends_on/0/task"),
        (Dependency(task="d", into="/x"), "invalid_field", "/depends_on/0/into"),
        (Dependency(task="d", by=["ada"]), "invalid_field", "/depends_on/0/by"),
        (Dependency(task="d", type="data"), "missing_field", "/depends_on/0/into"),
        (Dependency(type="approval", source="/x"), "invalid_field", "/depends_on/0/from"),
        ("@other", "unknown_dependency", "/depends_on/0"),
        (data(into="/argv/3"), "bad_pointer", "/depends_on/0/into"),
        (data(into="/argv/0/deeper"), "bad_pointer", "/depends_on/0/into"),
        (data(into="/memory_max_mb"), "bad_pointer", "/depends_on/0/into"),
    ],
)
def test_what_no_task_could_wait_for_is_refused_where_it_stands(item: Any, code: str, pointer: str) -> None:
    given().when(submit(depends_on=[item])).then_raises(Unprocessable, code=code, pointer=pointer)


def test_a_task_cannot_depend_on_itself() -> None:
    own = str(derive(command_id(1), "task"))
    given().when(submit(depends_on=[own])).then_raises(Unprocessable, code="self_dependency", pointer="/depends_on/0")


# Ends of dependencies


def test_the_last_end_queues_it_and_an_end_counts_once() -> None:
    both = blocked(FINISH, Dependency(task="e"))
    state = given(*both).when(settle(ended("d"))).then(DependenciesEnded(ends=[ended("d")]))
    assert (state.status, state.open_tasks) == ("blocked", {"e"})
    half = (*both, DependenciesEnded(ends=[ended("d")]))
    given(*half).when(settle(ended("d"))).then()
    state = given(*half).when(settle(ended("d"), ended("e"))).then(DependenciesEnded(ends=[ended("e")]), TaskQueued())
    assert state.status == "queued"
    given(*half, DependenciesEnded(ends=[ended("e")]), TaskQueued()).when(settle(ended("e"))).then()


@pytest.mark.parametrize(("status", "said"), [("failed", "failed"), ("cancelled", "was cancelled")])
def test_an_end_that_is_no_success_leads_where_the_policy_says(status: str, said: str) -> None:
    bad = DependenciesEnded(ends=[ended(status=status)])
    reason = f"Task d, which it depends on, {said}."
    command = settle(ended(status=status))
    given(*blocked(FINISH, Dependency(task="e"))).when(command).then(bad, TaskCancelled(reason=reason))
    given(*blocked(FINISH, on_dependency_failure="fail")).when(command).then(
        bad, TaskFailed(error=reason, outcome="dependency_failed")
    )
    given(*blocked(FINISH, on_dependency_failure="run")).when(command).then(bad, TaskQueued())


def test_results_go_into_the_parameters_of_the_attempt() -> None:
    state = (
        given(*blocked(data()))
        .when(settle(ended(), inputs={"/arguments/x": [1]}))
        .then(DependenciesEnded(ends=[ended()], inputs={"/arguments/x": [1]}), TaskQueued())
    )
    assert placed(state.spec.parameters, state.inputs) == {"function": "f", "arguments": {"x": [1]}}


def test_a_result_that_cannot_be_used_fails_the_task_and_says_why() -> None:
    given(*blocked(data())).when(settle(ended(), problem="Too large.")).then(
        DependenciesEnded(ends=[ended()]), TaskFailed(error="Too large.", outcome="dependency_failed")
    )
    history = given(submitted(depends_on=[data(into="/argv/0")]), TaskBlocked())
    state = history.when(settle(ended(), inputs={"/argv/0": ""})).then(
        DependenciesEnded(ends=[ended()], inputs={"/argv/0": ""}),
        TaskFailed(
            error="The results of what it depends on do not fit its parameters: The first item of argv names the "
            "program; it is empty. (/parameters/argv/0)",
            outcome="dependency_failed",
        ),
    )
    assert state.status == "failed"


def test_a_blocked_task_is_cancelled_at_once() -> None:
    given(*blocked(FINISH)).when(CancelTask(task_id="t")).then(TaskCancelled())


# What of a result is taken


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", {"value": {"a/b": [1, 2]}, "stdout": "hi", "stderr": None}),
        ("/stdout", "hi"),
        ("/value/a~1b/1", 2),
        ("/stderr", None),
    ],
)
def test_a_pointer_chooses_from_a_result(pointer: str, value: Any) -> None:
    assert chosen({"value": {"a/b": [1, 2]}, "stdout": "hi", "stderr": None}, pointer) == value


def test_what_the_executor_keeps_as_a_blob_goes_as_a_reference() -> None:
    blob = {"sha256": "0" * 64, "size": 70_000}
    kept = {"stdout": "cut", "stdout_blob": blob, "value": {"x_blob": blob}}
    reference = {"blob": "0" * 64, "size": 70_000}
    assert (chosen(kept, "/stdout"), chosen(kept, "/stdout_blob")) == (reference, reference)
    assert chosen(kept, "/value/x_blob") == blob, "what a function returns names no blobs"


@pytest.mark.parametrize("pointer", ["/nothing", "/value/2", "/value/-1", "/stdout/0"])
def test_a_pointer_that_leads_nowhere_says_so(pointer: str) -> None:
    with pytest.raises(NoPlace, match="has nothing at"):
        chosen({"value": [1, 2], "stdout": "hi"}, pointer)


@pytest.mark.parametrize("value", [{"secret": "TOKEN"}, [{"a": {"secret": "TOKEN"}}], {"secret": 17}])
def test_a_result_cannot_name_a_secret_for_the_next_task(value: Any) -> None:
    with pytest.raises(NoPlace):
        chosen({"value": value}, "/value")


def looked_up(result: dict[str, Any], *items: Dependency) -> SettleDependencies:
    history = History(folding=False)
    history.commit("task", "d", TaskCompleted(fence=1, agent_id="a", started_ms=0, result=result))
    settlement = Settlement(SettleDependencies(task_id="t", look_up=["d", "e"]), fold("task", blocked(*items)))
    assert settlement.add("d", history.commits)
    assert settlement.add("e", [])
    return settlement.command()


def test_what_is_looked_up_comes_with_its_end_and_what_was_chosen() -> None:
    command = looked_up({"value": 7}, data(source="/value"), Dependency(task="e"))
    assert command == settle(ended(position=1), ended("e", "unknown", 0), inputs={"/arguments/x": 7})


def test_results_are_bounded_together() -> None:
    half = "x" * (INPUTS_MAX_BYTES // 2)
    command = looked_up({"value": half}, data(source="/value"), data(into="/arguments/y", source="/value"))
    assert command.problem is not None
    assert "larger than" in command.problem


# Approvals


def test_who_is_named_approves_and_the_last_word_queues_it() -> None:
    history = blocked(approval("ada"), approval("bob"), FINISH)
    approved = TaskApproved(by="ada", reason="fine", items=[0])
    state = given(*history).when(ApproveTask(task_id="t", reason="fine")).then(approved)
    assert state.open_approvals == {1}
    after_ada = (*history, approved)
    given(*after_ada).when(ApproveTask(task_id="t", reason="again")).then()
    last = TaskApproved(by="bob", reason="me too", items=[1])
    by_bob = ApproveTask(task_id="t", reason="me too")
    given(*after_ada).when(by_bob, actor="bob").then(last)
    settled = (*after_ada, DependenciesEnded(ends=[ended()]))
    given(*settled).when(by_bob, actor="bob").then(last, TaskQueued())
    given(*after_ada, last).when(settle(ended())).then(DependenciesEnded(ends=[ended()]), TaskQueued())


@pytest.mark.parametrize("verb", [ApproveTask, RejectTask])
def test_whoever_is_not_named_says_nothing(verb: Any) -> None:
    command = verb(task_id="t", reason="x")
    given(*blocked(approval("bob"))).when(command).then_raises(Forbidden, code="not_an_approver")
    given(*blocked(FINISH)).when(command).then_raises(Refused, code="no_approval_asked")


def test_a_rejection_ends_it_whatever_the_policy() -> None:
    given(*blocked(approval(), on_dependency_failure="run")).when(RejectTask(task_id="t", reason="no")).then(
        TaskRejected(by="ada", reason="no"), TaskCancelled(reason="Rejected by ada: no")
    )


# Questions


RUNS = (submitted(), TaskQueued(), assigned())
ASKS = AskTask(task_id="t", fence=3, question="which?", choices=["x", "y"])
ASKED = TaskAsked(fence=3, agent_id="a", question="which?", choices=["x", "y"])


def test_a_question_ends_the_attempt_and_its_answer_queues_the_task() -> None:
    state = given(*RUNS).when(ASKS).then(ASKED)
    assert (state.status, state.held, state.agent_id, state.failures) == ("input_required", False, None, 0)
    asked = given(*RUNS, ASKED)
    state = asked.when(AnswerTask(task_id="t", answer="y")).then(
        TaskAnswered(question="which?", answer="y"), TaskQueued()
    )
    assert [(said.question, said.answer) for said in state.answers] == [("which?", "y")]
    asked.when(AnswerTask(task_id="t", answer="z")).then_raises(Unprocessable, code="not_a_choice", pointer="/answer")
    asked.when(CancelTask(task_id="t")).then(TaskCancelled())
    asked.when(ASKS).then_raises(Refused, code="stale_fence")


def test_only_what_is_asked_is_answered_and_within_bounds() -> None:
    answer = AnswerTask(task_id="t", answer="x" * ANSWER_MAX_BYTES)
    given(*RUNS).when(answer).then_raises(Refused, code="nothing_asked")
    free = TaskAsked(fence=3, agent_id="a", question="which?")
    given(*RUNS, free).when(answer).then_raises(Unprocessable, code="invalid_field", pointer="/answer")


def test_whoever_asks_without_end_fails_and_who_is_cancelled_asks_nothing() -> None:
    answered = [TaskAnswered(question=str(number), answer=1) for number in range(QUESTIONS_MAX)]
    error = f"It asked more than {QUESTIONS_MAX} questions."
    history = (submitted(), *answered, TaskQueued(), assigned())
    fence = len(history)
    given(*history).when(AskTask(task_id="t", fence=fence, question="?")).then(
        AttemptEnded(fence=fence, agent_id="a", outcome="failed", error=error, type="greet"),
        TaskFailed(error=error, outcome="failed"),
    )
    given(*RUNS, CancelRequested(grace_s=5.0, reason="enough")).when(ASKS).then(
        AttemptEnded(
            fence=3, agent_id="a", outcome="cancelled", error="It was cancelled while it asked.", type="greet"
        ),
        TaskCancelled(reason="enough"),
    )


# The process managers


def relations(scene: Scene) -> list[Any]:
    kinds = (SettleDependencies, CancelChild)
    return [decision.command for decision in scene.decides() if isinstance(decision.command, kinds)]


def test_a_dependent_hears_of_ends_when_all_have_come_and_of_a_bad_one_at_once() -> None:
    def two() -> Scene:
        scene = Scene().task("d").task("e")
        return scene.has("task", "t", *blocked(FINISH, Dependency(task="e")))

    done = TaskCompleted(fence=1, agent_id="a", started_ms=0, result={})
    scene = two().has("task", "d", done)
    assert relations(scene) == []
    assert relations(scene.has("task", "e", done)) == [settle(ended("d", position=4), ended("e", position=5))]
    scene = two().has("task", "d", TaskCancelled())
    assert relations(scene) == [settle(ended("d", "cancelled", 4))]
    scene.has("task", "t", DependenciesEnded(ends=[ended("d", "cancelled", 4)]), TaskCancelled())
    assert (relations(scene), scene.fleet.dependencies.blocked) == ([], {})


def test_what_had_ended_before_and_what_gives_its_result_is_looked_up() -> None:
    scene = Scene().has("task", "t", *blocked(FINISH))
    assert relations(scene) == [settle(look_up=["d"])]
    scene = Scene().task("d").has("task", "t", *blocked(data()))
    assert relations(scene) == []
    scene.has("task", "d", TaskCompleted(fence=1, agent_id="a", started_ms=0, result={}))
    assert relations(scene) == [settle(look_up=["d"])]


def test_a_cancel_goes_down_to_the_parts_and_a_completion_does_not() -> None:
    def family() -> Scene:
        return Scene().task("p").task("c", parent="p").task("g", parent="c")

    reason = "Task {}, which it is a part of, was cancelled."
    scene = family().has("task", "p", CancelRequested(grace_s=5.0))
    assert relations(scene) == [CancelChild(task_id="c", reason=reason.format("p"))]
    scene.has("task", "c", TaskCancelled())
    assert relations(scene) == [CancelChild(task_id="g", reason=reason.format("c"))]
    late = scene.task("late", parent="p")
    assert [command.task_id for command in relations(late)] == ["g", "late"]
    done = family().has("task", "p", TaskCompleted(fence=1, agent_id="a", started_ms=0, result={}))
    assert relations(done) == []


# Batches


def codes(*commands: SubmitTask) -> list[str]:
    plan = planned(commands, command_id(1))
    return [item.code if isinstance(item, HivebusError) else "good" for item in plan.items]


def test_whatever_is_named_goes_first_and_the_rest_stays_in_its_order() -> None:
    commands = [submit(depends_on=["@z"]), submit(), submit(ref="z", depends_on=["@y"]), submit(ref="y"), submit()]
    plan = planned(commands, command_id(1))
    assert plan.order == [1, 3, 2, 0, 4]
    first, last = plan.items[3], plan.items[2]
    assert isinstance(first, SubmitTask)
    assert isinstance(last, SubmitTask)
    assert (first.ref, last.ref, last.depends_on[0] != "@y") == (None, None, True)


def test_each_cycle_is_named_and_what_hangs_on_it_is_not_a_part_of_it() -> None:
    ring = [submit(ref=name, depends_on=[f"@{other}"]) for name, other in ("ab", "bc", "ca")]
    assert codes(*ring, submit(depends_on=["@a"])) == [*["dependency_cycle"] * 3, "good"]
    assert codes(submit(ref="a", parent="@a")) == ["self_dependency"]
    assert codes(submit(ref="a"), submit(ref="a")) == ["good", "duplicate_ref"]
    assert codes(submit(parent="@a")) == ["unknown_parent"]
    long = [submit(ref=f"r{n}", depends_on=[f"@r{(n + 1) % 1000}"]) for n in range(1000)]
    assert codes(*long) == ["dependency_cycle"] * 1000
