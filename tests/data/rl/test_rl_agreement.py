"""A sampler that has the wrong weights, or the wrong temperature, is noticed within one step; a right one never."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from events import catalog, names
from events.bus import Bus
from events.streams import FACTS
from tests.data.rl.rl_rig import Rig, opened, spec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def fault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is wrong with the sampler: `faulty_sampler`."""
    path = tmp_path_factory.mktemp("fault") / "fault.json"
    path.write_text("{}")
    return path


@pytest.fixture(scope="module")
def rig(tiny_model_dir: Path, fault: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder, faulty = tmp_path_factory.mktemp("agreement"), "import tests.data.rl.faulty_sampler; "
    with opened(folder, tiny_model_dir, {"sample": faulty}, FAULT=str(fault)) as running:
        yield running


@pytest.fixture(scope="module")
def dataset(rig: Rig) -> str:
    return rig.dataset()


@pytest.fixture(scope="module")
def clean(rig: Rig, dataset: str) -> dict[int, str]:
    """By staleness, a run that nothing is wrong with."""
    return {staleness: run_to_the_end(rig, dataset, staleness, steps=5) for staleness in (0, 1)}


def run_to_the_end(rig: Rig, dataset: str, staleness: int, **changed: Any) -> str:
    """The run's id once it is over or paused."""
    wanted = {"groups": 6, "sampling": {"max_tokens": 8}, "max_staleness": staleness}
    run_id = str(rig.start(spec(dataset, **wanted | changed))["id"])
    rig.until(run_id, lambda info: info["phase"] != "running")
    return run_id


def alarms_of(rig: Rig, run_id: str) -> list[dict[str, Any]]:
    """The facts that say so."""
    return asyncio.run(_alarms_of(rig, run_id))


async def _alarms_of(rig: Rig, run_id: str) -> list[dict[str, Any]]:
    bus = await Bus.connect(rig.nats_url, name="look")
    try:
        subject = names.fact_subject("local", catalog.SAMPLER_MISMATCH)
        events = [stored.event async for stored in bus.walk(FACTS, subject)]
    finally:
        await bus.close()
    return [json.loads(event.get_data()) for event in events if event.get_subject() == run_id]


def test_clean_runs_give_no_alarm_and_fresh_rollouts_have_a_ratio_of_one(rig: Rig, clean: dict[int, str]):
    for run_id in clean.values():
        info = rig.info(run_id)
        assert info["phase"] == "completed", info["reason"]
        assert alarms_of(rig, run_id) == []
        rows = rig.rows_of(run_id)[:5]
        assert all(row["gap"] < 1e-4 for row in rows if row["gap"] is not None)
        errors = [abs(row["entropy_errors"]) for row in rows if row["entropy_errors"] is not None]
        assert errors and max(errors) < 5
    for row in rig.rows_of(clean[0])[:5]:
        assert 0.999 < row["ratio"] < 1.001 and row["ratio_max"] < 1.001 and row["gap"] is not None
    later = rig.rows_of(clean[1])[1:5]
    assert any(row["staleness"] == 1 and row["kl_sampler_k3"] > 1e-4 for row in later)
    assert any(row["gap"] is not None for row in later)  # the sampler was asked


@pytest.mark.parametrize("staleness", [0, 1])
def test_another_adapter_under_the_name_of_a_version_is_noticed_within_one_step(
    rig: Rig, dataset: str, clean: dict[int, str], fault: Path, staleness: int
):
    other = rig.adapter_file(clean[0]).parent
    fault.write_text(json.dumps({"from": 2, "adapter": str(other)}))
    run_id = run_to_the_end(rig, dataset, staleness, steps=20)
    info, (alarm,) = rig.info(run_id), alarms_of(rig, run_id)
    assert info["phase"] == "paused" and "differ by" in info["reason"]
    assert alarm["reason"] == info["reason"]
    assert 2 <= alarm["step"] <= 2 + staleness  # version 2 is the first that is wrong


@pytest.mark.parametrize("staleness", [0, 1])
def test_another_temperature_is_noticed_within_one_step(
    rig: Rig, dataset: str, clean: dict[int, str], fault: Path, staleness: int
):
    fault.write_text(json.dumps({"from": 1, "temperature": 0.5}))
    even = {"type": "regex", "params": {"pattern": r"[02468]\D*$"}}  # some are, whatever the temperature
    adam = {"learning_rate": 1e-3}
    run_id = run_to_the_end(rig, dataset, staleness, steps=9, groups=8, grader=even, optimizer=adam)
    info, (alarm,) = rig.info(run_id), alarms_of(rig, run_id)
    assert info["phase"] == "paused" and "less surprising" in info["reason"]
    assert alarm["reason"] == info["reason"]
    assert 1 <= alarm["step"] <= 1 + staleness  # the first step with rollouts of version 1
    row = rig.rows_of(run_id)[alarm["step"]]
    assert row["entropy_errors"] < -6 and (row["gap"] is None or row["gap"] < 1e-4)
