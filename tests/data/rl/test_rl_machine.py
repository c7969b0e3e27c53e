"""The state machine keeps its promises whatever happens in whatever order, and does each thing when it should."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.data.rl import messages as m
from services.data.rl.machine import initial, outstanding, step
from services.data.rl.state import State
from services.data.rl.turn import planned_steps
from tests.data.rl.rl_world import World, make_spec

SPECS = st.fixed_dictionaries(
    {
        "groups": st.integers(1, 3),
        "steps": st.integers(1, 5),
        "epochs": st.sampled_from([None, None, 1, 2]),
        "max_staleness": st.integers(0, 2),
        "algorithm": st.sampled_from(
            [{"type": name} for name in ("grpo", "dr_grpo", "rloo", "reinforce", "dapo")]
        ),
        "kl": st.sampled_from([{"coefficient": 0.0}, {"coefficient": 0.1}]),
        "evaluation": st.sampled_from([None, {"every": 2, "split": "test"}, {"every": 1, "split": "test"}]),
        "checkpoints": st.sampled_from([None, {"every": 1, "keep": 1}, {"every": 2, "keep": 2}]),
        "stragglers": st.sampled_from([{}, {"seconds": 1.0, "share": 0.5}]),
        "stop": st.sampled_from([{}, {}, {"reward_at_least": 0.5, "over": 2}]),
    }
)


@settings(max_examples=120, deadline=None)
@given(
    spec=SPECS,
    seed=st.integers(0, 2**32),
    trouble=st.sampled_from([0.0, 0.05, 0.2]),
    rows=st.integers(1, 9),
    faulty=st.sampled_from([None, None, 1, 2, 5]),
)
def test_whatever_happens_every_step_is_trained_once_and_every_prompt_is_drawn_once(
    spec: dict[str, Any], seed: int, trouble: float, rows: int, faulty: int | None
):
    world = World(make_spec(**spec), rows, random.Random(seed), trouble, faulty=faulty).run()
    state = world.state
    assert state.phase == "completed"
    if state.stop is None and spec["algorithm"] != {"type": "dapo"}:
        assert state.submitted == planned_steps(world.spec, state)
    check_the_log(world)
    check_the_prompts(world)
    check_the_rows(world)
    check_what_is_kept(world)
    check_the_probes(world)
    check_what_is_skipped(world)
    check_what_is_forgotten(world)


def check_what_is_forgotten(world: World) -> None:
    """All of a row goes with the next one, or once its weights are compared."""
    said = [score.id for report in world.of(m.Report) for score in report.groups]
    assert sorted([*world.forgotten, *(score.id for score in world.state.reported)]) == sorted(said)
    assert world.dropped == world.closed | set(world.state.dropped)


def check_what_is_skipped(world: World) -> None:
    """Rows that cannot be asked are counted and never trained."""
    trained = [score.sample.prompt for train in world.of(m.Train) for score in train.groups]
    if world.faulty is None:
        assert world.state.skipped == 0
    else:
        assert not any(prompt % world.faulty == world.faulty - 1 for prompt in trained)
        told = sum(report.skipped for report in world.of(m.Report))
        assert told == world.state.skipped or world.state.stop is not None


def check_the_probes(world: World) -> None:
    """Steps are compared once at most, and only where no rollout tells; all of them answered before the end."""
    probes = world.of(m.Probe)
    assert len({probe.train.step for probe in probes}) == len(probes)
    assert all(probe.train in world.of(m.Train) for probe in probes)
    for probe in probes:
        assert all(score.sample.version < probe.train.step for score in probe.train.groups)
    assert world.state.probing is None


def check_the_log(world: World) -> None:
    """The numbers run without a gap; steps come in order, each followed by its publishing."""
    assert sorted(world.log) == list(range(len(world.log)))
    ids = [world.log[number] for number in sorted(world.log) if not world.log[number].startswith("save")]
    steps = [
        id_ for k in range(world.state.submitted) for id_ in (f"train-{k}", f"train-{k}", f"publish-{k + 1}")
    ]
    assert ids == ["create", "publish-0", *steps]


def check_the_prompts(world: World) -> None:
    places: dict[int, set[tuple[int, int]]] = {}
    for sample in world.of(m.Sample):
        places.setdefault(sample.prompt, set()).add((sample.batch, sample.group))
    # a batch that was given up as the run stopped may have drawn prompts and never come to sampling them
    drawn = set(places) if world.state.stop is None else set(places) | set(range(world.state.cursor))
    assert sorted(drawn) == list(range(world.state.cursor))
    assert all(len(one) == 1 for one in places.values())
    trained = [score.sample.prompt for train in world.of(m.Train) for score in train.groups]
    assert len(trained) == len(set(trained))
    staleness = world.spec.max_staleness
    for train in world.of(m.Train):
        assert all(train.step - staleness <= one.sample.version <= train.step for one in train.groups)
        assert all(one.batch == train.step and one.id in world.published for one in train.groups)


def check_the_rows(world: World) -> None:
    reports = world.of(m.Report)
    assert [report.row for report in reports] == list(range(len(reports)))
    assert [report.train for report in reports if report.train] == world.of(m.Train)
    heard = {(e.version, e.value) for e in world.heard if isinstance(e, m.Evaluated) and e.value is not None}
    told = [one for report in reports for one in report.evaluations]
    assert len(told) == len({version for version, _ in told}) and set(told) <= heard
    evaluation = world.spec.evaluation
    if evaluation is not None:
        asked = sorted({command.version for command in world.of(m.Evaluate)})
        newest = world.state.newest
        assert newest is not None
        assert asked == sorted({*range(0, newest + 1, evaluation.every), newest})


def check_what_is_kept(world: World) -> None:
    state, newest, keep = world.state, world.state.newest, world.spec.checkpoints
    expected = [] if keep is None else sorted({*range(keep.every, newest + 1, keep.every), newest} - {0})
    assert sorted(save.version for save in world.of(m.Save)) == expected
    assert list(state.saved) == ([] if keep is None else expected[-keep.keep :])
    assert set(state.live) == {newest, *state.saved}


def test_the_state_does_not_grow_with_the_steps():
    sizes = []
    for steps in (50, 400):
        world = World(make_spec(steps=steps, checkpoints={"every": 2}), 100, random.Random(0)).run(50_000)
        sizes.append(len(world.state.model_dump_json()))
    assert sizes[1] - sizes[0] < 60


# --- one thing after the other ----------------------------------------------------------------------------------


class Driven:
    """A run that hears exactly what a test says."""

    def __init__(self, rows: int = 100, **changes: Any) -> None:
        self.spec = make_spec(**changes)
        self.state = initial(self.spec, rows)

    def hear(self, *events: m.Event) -> list[str]:
        """The ids of what is said."""
        said: list[str] = []
        for event in events:
            self.state, commands = step(self.spec, self.state, event)
            said += [command.id for command in commands]
        return said

    def outstanding(self) -> list[str]:
        return [command.id for command in outstanding(self.spec, self.state)]

    def command(self, id_: str) -> Any:
        return next(one for one in outstanding(self.spec, self.state) if one.id == id_)

    def sampled_and_scored(
        self, batch: int, group: int, *rewards: float | None, attempt: int = 0
    ) -> list[str]:
        place = {"batch": batch, "group": group, "attempt": attempt}
        return self.hear(m.Sampled(**place), m.Scored(**place, rewards=rewards or (0.0, 1.0)))


def started(**changes: Any) -> Driven:
    run = Driven(**changes)
    assert run.outstanding() == ["create"]
    run.hear(m.Created())
    run.hear(m.Published(version=0))
    return run


def test_a_run_is_created_then_published_then_sampled():
    run = Driven()
    assert run.outstanding() == ["create"]
    assert run.hear(m.Created()) == ["publish-0"]
    assert run.hear(m.Published(version=0)) == [
        f"sample-{batch}-{group}-0-p{2 * batch + group}-v0" for batch in (0, 1) for group in (0, 1)
    ]


def test_without_staleness_a_batch_waits_for_the_step_before():
    run = started(max_staleness=0)
    assert [id_ for id_ in run.outstanding() if id_.startswith("sample-1")] == []
    run.sampled_and_scored(0, 0)
    run.sampled_and_scored(0, 1)
    run.hear(m.Trained(step=0))
    assert "sample-1-0-0-p2-v1" in run.hear(m.Published(version=1))


def test_a_group_is_scored_as_soon_as_it_is_sampled():
    assert started().hear(m.Sampled(batch=1, group=0, attempt=0)) == ["score-1-0-0-0"]


def test_a_settled_batch_is_trained_and_published_at_once_but_after_the_one_before():
    run = started()
    assert run.sampled_and_scored(1, 0) + run.sampled_and_scored(1, 1) == ["score-1-0-0-0", "score-1-1-0-0"]
    run.sampled_and_scored(0, 0)
    assert run.sampled_and_scored(0, 1) == ["score-0-1-0-0", "train-0", "publish-1", "train-1", "publish-2"]
    assert (run.command("train-0").seq, run.command("publish-1").seq, run.command("train-1").seq) == (2, 4, 5)


def test_the_next_batch_uses_the_newest_weights_that_there_are():
    run = started(max_staleness=2)
    for batch in (0, 1):
        run.sampled_and_scored(batch, 0)
        run.sampled_and_scored(batch, 1)
    said = run.hear(m.Trained(step=0), m.Trained(step=1), m.Published(version=2), m.Published(version=1))
    assert [id_ for id_ in said if id_.startswith("sample")] == [
        f"sample-{batch}-{group}-0-p{2 * batch + group}-v2" for batch in (3,) for group in (0, 1)
    ]


def test_groups_that_teach_nothing_are_not_trained_and_are_counted():
    run = started(groups=3, max_staleness=0, group_size=3)
    run.sampled_and_scored(0, 0, 1.0, 1.0, None)
    run.sampled_and_scored(0, 1, 1.0, None, None)
    run.sampled_and_scored(0, 2, 1.0, 0.0, None)
    assert [one.group for one in run.command("train-0").groups] == [2]
    assert run.command("train-0").uniform == 1
    run.hear(m.Trained(step=0), m.Published(version=1))
    report = run.command("report-0")
    assert (report.uniform, report.dropped, [one.group for one in report.groups]) == (1, 1, [0, 1, 2])


def test_a_batch_that_teaches_nothing_still_takes_its_numbers():
    run = started()
    run.sampled_and_scored(0, 0, 1.0, 1.0)
    assert run.sampled_and_scored(0, 1, 0.0, 0.0)[-2:] == ["train-0", "publish-1"]
    assert run.command("train-0").groups == () and run.command("publish-1").seq == 4


def test_groups_of_equal_rewards_teach_where_there_is_a_running_mean_or_kl():
    for changes in ({"algorithm": {"type": "reinforce"}}, {"kl": {"coefficient": 0.1}}):
        run = started(**changes)
        run.sampled_and_scored(0, 0, 1.0, 1.0)
        run.sampled_and_scored(0, 1, 0.0, 0.0)
        assert [one.group for one in run.command("train-0").groups] == [0, 1]


def test_the_running_mean_of_a_step_comes_from_the_batches_before():
    run = started(algorithm={"type": "reinforce", "decay": 0.5})
    run.sampled_and_scored(0, 0, 1.0, 1.0)
    run.sampled_and_scored(0, 1, 0.0, 1.0)
    assert run.command("train-0").baseline == 0.75  # the first has no other than its own
    run.hear(m.Trained(step=0), m.Published(version=1))
    run.sampled_and_scored(1, 0, 0.0, 0.0)
    run.sampled_and_scored(1, 1, 0.0, 1.0)
    assert run.command("train-1").baseline == 0.75
    assert run.state.baseline == 0.5 * 0.75 + 0.5 * 0.25


def test_dapo_gives_the_place_of_a_uniform_group_to_the_next_prompt():
    run = started(algorithm={"type": "dapo", "refills": 2}, max_staleness=0)
    run.sampled_and_scored(0, 0)
    assert run.sampled_and_scored(0, 1, 1.0, 1.0) == ["score-0-1-0-0", "sample-0-1-1-p2-v0"]
    assert run.sampled_and_scored(0, 1, 1.0, 1.0, attempt=1)[-1] == "sample-0-1-2-p3-v0"
    assert run.sampled_and_scored(0, 1, 0.0, 0.0, attempt=2)[-2:] == ["train-0", "publish-1"]
    run.hear(m.Trained(step=0), m.Published(version=1))
    report = run.command("report-0")
    assert (report.refilled, report.refilled_rewards, report.uniform) == (2, (4, 4.0), 1)
    assert run.state.cursor == 4 + 2


def test_a_grader_that_fails_on_everything_pauses_the_run_and_scores_again():
    run = started()
    run.sampled_and_scored(0, 0, None, None)
    assert run.sampled_and_scored(0, 1, None, None)[-1] == "finish-1"
    assert run.state.phase == "paused" and "grader failed" in str(run.state.reason)
    said = run.hear(m.Wanted(what="run", order=1))
    assert {"score-0-0-1-0", "score-0-1-1-0"} <= set(said) and "sample-1-0-0-p2-v0" in said
    assert run.command("score-0-0-1-0").sample.id == "sample-0-0-0-p0-v0"


def test_a_run_that_is_paused_because_its_grader_failed_says_why():
    run = started()
    for group in (0, 1):
        run.hear(m.Sampled(batch=0, group=group, attempt=0))
        run.hear(
            m.Scored(batch=0, group=group, attempt=0, rewards=(None, None), failure=f"no key for {group}")
        )
    assert run.state.reason == "the grader failed on every rollout of batch 0: no key for 0"


def past_a_stale_step(**changes: Any) -> Driven:
    """A run whose step 1 is trained, on rollouts that version 0 drew."""
    run = started(**changes)
    for batch in (0, 1):
        for group in (0, 1):
            run.sampled_and_scored(batch, group)
    run.hear(m.Trained(step=0), m.Published(version=1), m.Reported(row=0))
    return run


def test_weights_that_drew_nothing_that_they_train_are_compared():
    run = past_a_stale_step()
    assert "probe-1" in run.hear(m.Trained(step=1)) and "probe-1" in run.outstanding()
    assert [one.sample.version for one in run.command("probe-1").train.groups] == [0, 0]
    said = run.hear(m.Published(version=2))
    assert "report-1" in said and 1 in run.state.live  # the row does not wait, the weights do
    assert run.hear(m.Probed(step=0, gap=1.0, alarm="gap")) == []  # was never asked
    run.hear(m.Probed(step=1, gap=0.01))
    assert run.state.phase == "running" and "probe-1" not in run.outstanding()
    assert run.state.gap == 0.01  # for the next row


def test_a_comparison_that_gives_alarm_pauses_the_run_and_is_not_made_again():
    run = past_a_stale_step()
    run.hear(m.Trained(step=1))
    assert run.hear(m.Probed(step=1, gap=1.0, alarm="they differ")) == ["finish-1"]
    assert (run.state.phase, run.state.reason) == ("paused", "they differ")
    said = run.hear(m.Wanted(what="run", order=1))
    assert "publish-2" in said and "probe-1" not in said


def test_nothing_is_compared_where_rollouts_tell_or_nobody_wants_to_know():
    fresh = started(max_staleness=0)
    for group in (0, 1):
        fresh.sampled_and_scored(0, group)
    silent = past_a_stale_step(alarms={"gap": None})
    assert "probe-0" not in fresh.hear(m.Trained(step=0), m.Published(version=1))
    assert "probe-1" not in silent.hear(m.Trained(step=1), m.Published(version=2))


def test_stragglers_are_left_out_when_their_grace_is_over():
    run = started(groups=4, stragglers={"seconds": 9.0, "share": 0.5})
    run.sampled_and_scored(0, 0)
    assert run.sampled_and_scored(0, 1)[-1] == "await-0"
    assert "await-0" in run.outstanding()
    run.hear(m.Sampled(batch=0, group=2, attempt=0))
    assert run.hear(m.Overdue(batch=0)) == ["train-0", "publish-1"]
    assert run.hear(m.Scored(batch=0, group=2, attempt=0, rewards=(0.0, 1.0))) == []
    run.hear(m.Trained(step=0), m.Published(version=1))
    assert run.command("report-0").overdue == 2


def test_a_straggler_that_is_left_out_stays_out_and_no_other_comes_with_it():
    run = started(stragglers={"seconds": 9.0, "share": 0.5})
    run.sampled_and_scored(1, 0)
    state = run.state
    assert run.hear(m.Overdue(batch=0)) == [] and run.state == state  # nobody asked for it
    assert run.hear(m.Overdue(batch=1)) == [] and run.state != state  # settled, but batch 0 comes first
    state = run.state
    for event in (m.Overdue(batch=1), m.Lost(batch=1, group=1, attempt=0)):
        assert run.hear(event) == [] and run.state == state


def test_a_batch_whose_only_settled_group_is_lost_is_not_left_without_any():
    run = started(stragglers={"seconds": 9.0, "share": 0.5})
    run.sampled_and_scored(0, 0)
    run.hear(m.Lost(batch=0, group=0, attempt=0), m.Overdue(batch=0))
    run.sampled_and_scored(0, 0, attempt=1)
    assert run.sampled_and_scored(0, 1)[-2:] == ["train-0", "publish-1"]
    assert [one.group for one in run.command("train-0").groups] == [0, 1]


def test_stragglers_are_waited_for_where_nothing_else_is_said():
    run = started(groups=4)
    assert run.sampled_and_scored(0, 0) + run.sampled_and_scored(0, 1) + run.sampled_and_scored(0, 2) == [
        "score-0-0-0-0",
        "score-0-1-0-0",
        "score-0-2-0-0",
    ]


def test_a_group_whose_results_are_gone_is_sampled_again_with_its_prompt():
    run = started()
    run.sampled_and_scored(0, 0)
    assert run.hear(m.Lost(batch=0, group=0, attempt=0)) == ["sample-0-0-1-p0-v0"]
    assert run.sampled_and_scored(0, 1) == ["score-0-1-0-0"]  # the batch is not settled any more
    assert run.sampled_and_scored(0, 0, attempt=1)[-2:] == ["train-0", "publish-1"]
    assert run.state.cursor == 4


def test_a_server_failure_is_tried_again_twice():
    run = started()

    def fail(id_: str) -> list[str]:
        return run.hear(m.Failed(command=id_, message="died", category="server", retryable=True))

    assert fail("sample-0-0-0-p0-v0") == ["sample-0-0-1-p0-v0"]
    run.hear(m.Sampled(batch=0, group=0, attempt=1))
    assert fail("score-0-0-1-1") == ["score-0-0-2-1"]
    assert fail("score-0-0-2-1") == ["finish-1"]
    assert (run.state.phase, run.state.reason) == ("failed", "score-0-0-2-1: died")
    assert run.outstanding() == ["finish-1"] and run.hear(m.Published(version=1)) == []


def test_an_evaluation_that_failed_is_tried_again_twice():
    run = started(evaluation={"split": "test"})
    for attempt, said in enumerate(["evaluate-0-1", "evaluate-0-2", "finish-1"]):
        failed = m.Failed(command=f"evaluate-0-{attempt}", message="died", category="server", retryable=True)
        assert run.hear(failed) == [said]


@pytest.mark.parametrize("category", ["user", "server"])
def test_the_callers_fault_and_a_training_command_are_not_tried_again(category: str):
    run = started(evaluation={"split": "test"})
    run.sampled_and_scored(0, 0)
    run.sampled_and_scored(0, 1)
    command = "evaluate-0-0" if category == "user" else "train-0"
    failed = m.Failed.model_validate(
        {"command": command, "message": "no", "category": category, "retryable": True}
    )
    assert run.hear(failed) == ["finish-1"] and run.state.phase == "failed"


def refused(command: str) -> m.Failed:
    return m.Failed(command=command, message="prompt: 600 tokens", category="user")


def test_a_row_that_cannot_be_asked_is_left_out_and_counted():
    run = started(groups=4)
    assert run.hear(refused("sample-0-2-0-p2-v0")) == []
    run.hear(m.Sampled(batch=0, group=3, attempt=0))
    assert run.hear(refused("score-0-3-0-0")) == []  # nor can its answers be scored
    run.sampled_and_scored(0, 0)
    assert run.sampled_and_scored(0, 1)[-2:] == ["train-0", "publish-1"]
    assert [one.group for one in run.command("train-0").groups] == [0, 1]
    assert run.hear(m.Lost(batch=0, group=2, attempt=0), refused("sample-0-2-0-p2-v0")) == []
    run.hear(m.Trained(step=0), m.Published(version=1))
    assert (run.command("report-0").skipped, run.command("report-0").overdue, run.state.skipped) == (2, 0, 2)


def test_stragglers_are_reckoned_among_the_rows_that_can_be_asked():
    run = started(groups=4, stragglers={"seconds": 9.0, "share": 0.5})
    run.hear(refused("sample-0-2-0-p2-v0"), refused("sample-0-3-0-p3-v0"))
    assert run.sampled_and_scored(0, 0)[-1] == "await-0"
    assert run.hear(m.Overdue(batch=0)) == ["train-0", "publish-1"]


def test_a_batch_of_which_no_row_can_be_asked_pauses_the_run_which_goes_on_behind_it():
    run = started(algorithm={"type": "reinforce"}, stop={"reward_at_least": 0.5, "over": 1})
    run.hear(refused("sample-0-0-0-p0-v0"))
    assert run.hear(refused("sample-0-1-0-p1-v0")) == ["finish-1"]
    assert (run.state.phase, run.state.reason) == (
        "paused",
        "no row of batch 0 can be asked; the first of them: prompt: 600 tokens",
    )
    said = run.hear(m.Wanted(what="run", order=1))
    assert said[:2] == ["train-0", "publish-1"] and run.command("train-0").groups == ()
    run.hear(m.Trained(step=0), m.Published(version=1), m.Reported(row=0))
    run.sampled_and_scored(1, 0)
    run.sampled_and_scored(1, 1)
    assert run.command("train-1").baseline == 0.5 and run.state.stop is not None


def test_a_paused_run_hears_and_says_nothing_until_it_is_resumed():
    run = started()
    before = run.outstanding()
    assert run.hear(m.Wanted(what="pause", order=1, reason="lunch")) == ["finish-1"]
    assert run.sampled_and_scored(0, 0) == [] and run.outstanding() == ["finish-1"]
    assert run.hear(m.Wanted(what="pause", order=1)) == []
    said = run.hear(m.Wanted(what="run", order=2))
    assert said == ["score-0-0-0-0", *before[1:]] == run.outstanding()
    assert run.hear(m.Wanted(what="pause", order=1)) == []


def test_a_paused_run_draws_no_prompts():
    run = Driven()
    run.hear(m.Created(), m.Wanted(what="pause", order=1))
    assert run.hear(m.Published(version=0)) == [] and run.state.cursor == 0
    assert len(run.hear(m.Wanted(what="run", order=2))) == 4


def test_a_run_that_is_over_has_nothing_under_way():
    run = started(stop={"minutes": 5}, checkpoints={"every": 1})
    run.hear(m.Failed(command="sample-0-0-0-p0-v0", message="no", category="server"))
    state = run.state
    assert (state.phase, state.batches, state.saving, state.evaluating) == ("failed", (), (), ())


def test_a_cancelled_run_is_over_even_when_paused():
    run = started()
    run.hear(m.Wanted(what="pause", order=1))
    assert run.hear(m.Wanted(what="cancel", order=2)) == ["finish-2"]
    assert run.hear(m.Wanted(what="run", order=3)) == [] and run.state.phase == "cancelled"


def test_an_alarm_pauses_once():
    run = started()
    run.sampled_and_scored(0, 0)
    run.sampled_and_scored(0, 1)
    run.hear(m.Trained(step=0), m.Published(version=1))
    alarm = m.Reported(row=0, alarm="the sampler is wrong")
    assert run.hear(alarm) == ["finish-1"] and run.state.reason == "the sampler is wrong"
    again = m.Wanted(what="run", order=1)
    run.hear(again)
    assert run.hear(alarm) == [] and run.state.phase == "running"
    run.sampled_and_scored(1, 0)
    run.sampled_and_scored(1, 1)
    run.hear(m.Trained(step=1), m.Published(version=2), m.Reported(row=1, alarm="still"))
    assert run.hear(again) == [] and run.state.phase == "paused"


def test_enough_reward_ends_the_run_with_a_checkpoint_and_an_evaluation():
    run = started(
        steps=50,
        stop={"reward_at_least": 0.5, "over": 1},
        checkpoints={"every": 20},
        evaluation={"every": 20, "split": "test"},
    )
    run.hear(m.Evaluated(version=0, attempt=0, value=0.1))
    run.sampled_and_scored(0, 0)
    assert run.sampled_and_scored(0, 1)[-2:] == ["train-0", "publish-1"]
    assert run.outstanding() == ["train-0", "publish-1"]  # the batch after it is given up
    assert run.hear(m.Trained(step=0), m.Published(version=1)) == ["report-0"]
    assert run.hear(m.Reported(row=0)) == ["save-1", "evaluate-1-0"]
    run.hear(m.Saved(version=1))
    assert run.hear(m.Evaluated(version=1, attempt=0, value=0.6)) == ["report-1"]
    assert run.command("report-1").evaluations == ((1, 0.6),) and run.command("report-1").train is None
    assert run.hear(m.Reported(row=1)) == ["finish-1"]
    assert (run.state.phase, run.state.reason) == ("completed", "reward 0.5 over 1, wanted 0.5")


def test_good_evaluations_and_the_clock_end_a_run_too():
    run = started(steps=50, evaluation={"split": "test"}, stop={"evaluation_at_least": 0.9, "over": 1})
    run.hear(m.Evaluated(version=0, attempt=0, value=1.0))
    assert run.state.stop == "evaluation 1 over 1, wanted 0.9"
    clock = started(steps=50, stop={"minutes": 5})
    clock.hear(m.TimeUp())
    assert (clock.state.phase, clock.state.reason) == ("completed", "its time is up")


def test_epochs_end_with_a_smaller_batch():
    world = World(make_spec(steps=None, epochs=1, groups=4), 10, random.Random(0)).run()
    assert [len(report.groups) for report in world.of(m.Report)] == [4, 4, 2]
    assert world.state.cursor == 10


def test_the_learning_rate_follows_the_schedule_over_the_planned_steps():
    optimizer = {"learning_rate": 8.0, "schedule": "linear"}
    world = World(make_spec(steps=None, epochs=1, optimizer=optimizer), 8, random.Random(0)).run()
    assert [train.learning_rate for train in world.of(m.Train)] == [8.0, 6.0, 4.0, 2.0]


def test_prompts_that_take_the_places_of_others_make_the_schedule_shorter():
    """So that it ends where the run does, which draws its prompts sooner."""
    optimizer = {"learning_rate": 8.0, "schedule": "linear"}
    run = started(
        algorithm={"type": "dapo"},
        groups=1,
        max_staleness=0,
        steps=None,
        epochs=1,
        rows=4,
        optimizer=optimizer,
    )
    run.sampled_and_scored(0, 0)
    run.hear(m.Trained(step=0), m.Published(version=1), m.Reported(row=0))
    assert run.sampled_and_scored(1, 0, 1.0, 1.0)[-1] == "sample-1-0-1-p2-v1"
    run.sampled_and_scored(1, 0, attempt=1)
    assert run.command("train-1").learning_rate == pytest.approx(8.0 * 2 / 3)
    run.hear(m.Trained(step=1), m.Published(version=2), m.Reported(row=1))
    run.sampled_and_scored(2, 0)
    assert run.command("train-2").learning_rate == pytest.approx(8.0 / 3)


def test_a_run_that_is_cancelled_has_trained_the_steps_that_were_applied():
    run = started()
    for batch in (0, 1):
        run.sampled_and_scored(batch, 0)
        run.sampled_and_scored(batch, 1)
    run.hear(m.Trained(step=0), m.Trained(step=0))
    assert (run.state.submitted, run.state.trained) == (2, 1)
    run.hear(m.Wanted(what="cancel", order=1))
    assert (run.state.phase, run.state.trained) == ("cancelled", 1)


def test_a_state_is_the_same_after_json():
    run = started(evaluation={"split": "test"}, checkpoints={"every": 1})
    run.sampled_and_scored(0, 0, 0.1, 0.2)
    run.sampled_and_scored(0, 1, 1 / 3, None)
    assert State.model_validate_json(run.state.model_dump_json(exclude_defaults=True)) == run.state
