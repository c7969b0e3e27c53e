"""The run log's protocol under every interleaving, and what goes wrong without any one of its rules.

The floors are the numbers of states that were counted when they were written, rounded down: an exploration that
visits fewer has lost what it is for. Without the slow ones they visit 230,000 states in some 20 s of one core.
"""

from collections.abc import Hashable

import pytest

from tests.protocol.explorer import TRAP, Counterexample, explore
from tests.protocol.run_log_model import RunLogModel
from tests.protocol.run_log_rules import Bounds, Rules
from tests.protocol.run_log_state import Program, State

TWO: Program = ("grad", "grad")
THREE: Program = ("grad", "grad", "grad")
SAVE: Program = ("grad", "save", "grad")
LOAD: Program = ("grad", "load", "grad")
REJECT: Program = ("grad", "reject", "grad")
FOUR: Program = ("grad", "save", "load", "grad")
CALM = Bounds(crashes=0, steals=0, failures=0)
ANY_KIND = ("result", "head", "entry", "tombstone")

SOUND: dict[str, tuple[int, Program, Bounds]] = {
    "a crash, a pause and a failure": (24_000, THREE, Bounds()),
    "two crashes and a pause": (13_000, THREE, Bounds(crashes=2, failures=0)),
    "a lost acknowledgement": (12_000, THREE, Bounds(failures=0, unheard=1)),
    "a number that comes late or never": (25_000, THREE, Bounds(failures=0, missing=(1,))),
    "a post after the purge": (11_000, THREE, Bounds(crashes=0, failures=0, missing=(1,), again=1)),
    "a save, a crash": (18_000, SAVE, Bounds(failures=0)),
    "a save, a failure": (12_000, SAVE, Bounds(crashes=0)),
    "a save, a lost acknowledgement": (10_000, SAVE, Bounds(crashes=0, failures=0, unheard=1)),
    "a load, a crash": (11_000, LOAD, Bounds(failures=0)),
    "a load, a failure": (10_000, LOAD, Bounds(crashes=0)),
    "a load, a lost acknowledgement": (6_000, LOAD, Bounds(crashes=0, failures=0, unheard=1)),
    "a rejection": (9_000, REJECT, Bounds(failures=0, again=1)),
    "four commands and a pause": (20_000, FOUR, Bounds(crashes=0, failures=0)),
    "four commands and two crashes": (5_000, FOUR, Bounds(crashes=2, steals=0, failures=0)),
}
"""What strikes: (states at least, commands, troubles). A pause goes with each, but for the last."""

WIDE: dict[str, tuple[int, Program, Bounds]] = {
    "everything twice": (150_000, THREE, Bounds(crashes=2, steals=2, unheard=1)),
    "a save": (70_000, SAVE, Bounds()),
    "a load": (49_000, LOAD, Bounds()),
    "a rejection": (32_000, REJECT, Bounds(again=1)),
    "a number that comes late or never": (47_000, THREE, Bounds(failures=0, missing=(1,), again=1)),
    "the first number late": (30_000, TWO, Bounds(missing=(0,), unheard=1)),
    "four commands": (110_000, FOUR, Bounds(failures=0)),
}
"""The same, wider: minutes rather than seconds."""

HELD_UP: dict[str, tuple[int, Program, Bounds]] = {
    "results and heads": (15_000, THREE, CALM._replace(steals=1, held_up=ANY_KIND)),
    "tombstones": (11_000, TWO, CALM._replace(steals=1, held_up=ANY_KIND, missing=(0,))),
    "checkpoint entries": (9_000, SAVE, CALM._replace(crashes=1, held_up=ANY_KIND)),
}

ONE_RECORD = "a number has one terminal record"
EFFECTS = "a result comes from exactly the effects of the numbers up to its own"
IN_THE_LOG = "a command above the head is in the log"
COVERED = "every number up to the head has its result"
SAVED = "a checkpoint holds exactly the effects of the numbers before its save"
RESTORED = "the holder can bring back the state that its results came from"
HEAD_BLOB = "the head names a blob that is there"

MUTATIONS: dict[str, tuple[Rules, Program, Bounds, str]] = {
    # The six that the words of the protocol forbid
    "no fence": (Rules(fenced=False), TWO, Bounds(crashes=0), ONE_RECORD),
    "purge before head": (Rules(head_before_purge=False), TWO, Bounds(), IN_THE_LOG),
    "ack before result": (Rules(result_before_ack=False), TWO, Bounds(), COVERED),
    "warm state kept across epochs": (Rules(cold_after_other_epochs=False), TWO, Bounds(steals=2), EFFECTS),
    "tombstone unfenced": (
        Rules(tombstone_fenced=False),
        TWO,
        Bounds(crashes=0, failures=0, missing=(0,)),
        ONE_RECORD,
    ),
    "epoch used again": (Rules(fresh_epochs=False), ("grad", "save"), Bounds(), SAVED),
    # What the words leave open
    "head unfenced": (Rules(head_fenced=False), TWO, Bounds(failures=0), ONE_RECORD),
    "head read before the lease is taken": (
        Rules(head_read_under_lease=False),
        TWO,
        Bounds(failures=0),
        ONE_RECORD,
    ),
    "gap judged before the lease is taken": (
        Rules(gap_judged_under_lease=False),
        TWO,
        Bounds(failures=0, missing=(0,)),
        ONE_RECORD,
    ),
    "a result overtakes an earlier one": (Rules(results_in_order=False), TWO, Bounds(), EFFECTS),
    "a checkpoint entry overtakes an earlier result": (
        Rules(results_in_order=False),
        ("grad", "save"),
        Bounds(),
        SAVED,
    ),
    "load resolved before its snapshot": (
        Rules(load_after_snapshot=False),
        ("grad", "load"),
        Bounds(failures=0),
        RESTORED,
    ),
    "no head before the load's own result": (
        Rules(head_before_load=False),
        ("grad", "load"),
        Bounds(failures=0),
        TRAP,
    ),
    "rejection purged": (
        Rules(purge_spares_results=False),
        ("reject", "grad"),
        Bounds(failures=0),
        COVERED,
    ),
    "tombstone purged": (
        Rules(purge_spares_results=False),
        TWO,
        Bounds(failures=0, missing=(0,)),
        COVERED,
    ),
    "every other blob swept": (Rules(sweep_only_older=False), TWO, Bounds(failures=0), HEAD_BLOB),
    "a head held up": (Rules(), TWO, CALM._replace(held_up=("head",)), IN_THE_LOG),
    "a result held up": (Rules(), TWO, CALM._replace(held_up=("result",)), ONE_RECORD),
    "a tombstone held up": (
        Rules(),
        TWO,
        CALM._replace(held_up=("tombstone",), missing=(0,)),
        ONE_RECORD,
    ),
}
"""What is broken: (the rules without it, commands, troubles, the invariant that falls)."""


@pytest.mark.parametrize("what", SOUND)
def test_no_interleaving_breaks_the_protocol_or_leaves_a_command_unresolved(what: str) -> None:
    assert_sound(*SOUND[what])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("what", WIDE)
def test_no_interleaving_of_more_troubles_breaks_the_protocol(what: str) -> None:
    assert_sound(*WIDE[what])


def assert_sound(floor: int, program: Program, bounds: Bounds, rules: Rules | None = None) -> None:
    """No invariant falls, every state has a way to its end, and there were enough states to tell."""
    found = explore(RunLogModel(program, bounds, rules))
    assert found.counterexample is None, str(found)
    assert found.states >= floor, f"the exploration has become too small: {found}"
    assert 0 < found.settled < found.states, str(found)


@pytest.mark.parametrize("what", HELD_UP)
def test_a_write_that_arrives_late_breaks_nothing_if_the_writer_looks_for_it_under_a_new_epoch(
    what: str,
) -> None:
    assert_sound(*HELD_UP[what], Rules(new_epoch_after_doubt=True))


@pytest.mark.parametrize("what", MUTATIONS)
def test_every_rule_is_needed(what: str) -> None:
    rules, program, bounds, broken = MUTATIONS[what]
    model = RunLogModel(program, bounds, rules)
    found = explore(model)
    assert found.counterexample is not None, f"{what} goes unnoticed: {found}"
    assert found.counterexample.broken.startswith(broken), str(found)
    if broken != TRAP:
        assert_ends_in_it(model, found.counterexample)


def assert_ends_in_it(model: RunLogModel, counterexample: Counterexample) -> None:
    """Going the way of the trace breaks the invariant in its last step and not before."""
    state = model.initial()
    for step in counterexample.steps:
        assert model.violated(state) is None, f"broken before {step!r}\n{counterexample}"
        state = dict(model.actions(state))[step]
    assert model.violated(state) == counterexample.broken


class Witnessed(RunLogModel):
    """Remembers everything that clients and trainers could ever have read."""

    def __init__(self, program: Program, bounds: Bounds, *, whole: bool) -> None:
        super().__init__(program, bounds, whole=whole)
        self.seen: set[Hashable] = set()

    def violated(self, state: State) -> str | None:
        self.seen.add((state.log, state.results, state.entries, state.lease, state.head, state.source))
        return super().violated(state)


@pytest.mark.parametrize("program", [TWO, ("grad", "save"), ("grad", "load")])
def test_leaving_out_what_trainers_compute_in_vain_leaves_out_nothing_that_can_be_read(
    program: Program,
) -> None:
    bounds = Bounds(failures=0)
    short, whole = (Witnessed(program, bounds, whole=whole) for whole in (False, True))
    few, many = explore(short), explore(whole)
    assert few.counterexample is None, str(few)
    assert many.counterexample is None, str(many)
    assert few.states < many.states
    assert short.seen == whole.seen
