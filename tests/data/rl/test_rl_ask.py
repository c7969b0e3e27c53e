"""What is asked of samplers and graders is what they can answer."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from events import sampling
from events.records import ModelRecord, SamplerRecord
from events.sampling import SampleCommand
from services.data.rl import ids
from services.data.rl.ask import Asking
from services.data.rl.messages import Evaluate, Sample
from services.data.rl.rows import Prompt
from tests.data.rl.rl_world import make_run

MODEL = ModelRecord(name="tiny", source="tiny", arch="tiny", vocab_size=64, context_length=16)


@pytest.mark.parametrize(("prompt", "room"), [(4, 8), (7, 8), (8, 7), (14, 1)])
async def test_every_rollout_can_be_read_as_a_prompt(
    monkeypatch: pytest.MonkeyPatch, prompt: int, room: int
) -> None:
    """By the base model, for KL, and where sampler and trainer are compared: an engine reads less than its context."""
    run, asked = make_run(sampling={"max_tokens": 8}, kl={"coefficient": 0.1}), []
    sampler = SamplerRecord(
        sampler_id="s", session_id=run.run_id, base="tiny", path=None, created=run.created
    )

    async def found(*_: object) -> SamplerRecord:
        return sampler

    async def filled(_: Sample) -> Prompt:
        return Prompt({}, "", tuple(range(prompt)))

    async def submit(bus: object, blobs: object, command: SampleCommand) -> None:
        asked.append(command.request.sampling_params.max_tokens)

    monkeypatch.setattr(sampling, "submit", submit)
    edge: Any = SimpleNamespace(records=SimpleNamespace(get=found), checkpoints=None, bus=None, blobs=None)
    prompts: Any = SimpleNamespace(of=filled)
    results: Any = None
    await Asking(edge, "local", run, MODEL, prompts, results).sample(
        Sample(batch=0, group=0, attempt=0, prompt=0, version=0)
    )
    assert asked == [room] and prompt + room < MODEL.context_length


def test_a_run_that_gets_the_id_of_a_deleted_one_has_rewards_of_its_own() -> None:
    run, command = make_run(), Evaluate(version=0, attempt=0)
    later = run.model_copy(update={"created": run.created + timedelta(seconds=1)})
    assert ids.score_key(run, command) == ids.score_key(run.model_copy(), command)
    assert ids.score_key(run, command) != ids.score_key(later, command)
