"""Real engines in one process, float32: clean steps agree, a wrong adapter or temperature does not, stale or not."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rekindle.types import AdamParams, ForwardBackwardOutput, SampledSequence
from rekindle.types.rewards import Score as Verdict
from rekindle.types.rl import RlRunSpec
from services.data.rl import alarms, metrics
from services.data.rl.batch import Batch, make_batch
from services.data.rl.messages import Report, Sample, Score, Train
from services.data.rl.metrics import Step
from services.data.rl.results import Group
from services.model.base import load_base
from services.model.lora import LoraSpec
from services.model.peft_files import save_adapter
from services.sample.engine import AdapterRef, SampleTask
from services.sample.torch_engine import TorchEngine
from services.train.engine import PassWork, TrainEngine
from services.train.results import extra_outputs

SPEC = RlRunSpec.of(
    {
        "base_model": "tiny",
        "dataset": {"name": "sums"},
        "prompt": "{question}",
        "grader": {"type": "math"},
        "algorithm": {"type": "rloo"},
        "groups": 6,
        "steps": 5,
    }
)
PROMPTS = [[5 + place, 9, 17, 4] for place in range(SPEC.groups)]
NOW = datetime(2026, 1, 2, tzinfo=UTC)
ADAM = AdamParams(learning_rate=1e-3)


def rewarded(sequence: SampledSequence) -> Verdict:
    """1 where the sum of the tokens is even, which nobody learns: groups keep different rewards."""
    value = float(sequence.tokens.sum() % 2 == 0)
    return Verdict(outcome="scored", value=value, reason=None, grader_version="x", seconds=0, attempts=1)


@dataclass
class Pair:
    """A trainer with one run, and a sampler that gets the run's versions."""

    trainer: TrainEngine
    sampler: TorchEngine
    folder: Path

    def __post_init__(self) -> None:
        self.run = self.trainer.new_run(LoraSpec(rank=8, seed=0))
        self.publish()

    def publish(self) -> None:
        save_adapter(self.folder_of(self.run.step), self.run.adapter, self.trainer.base.source)

    def folder_of(self, version: int) -> Path:
        return self.folder / f"version-{version}"

    async def draw(self, version: int, **wrong: Any) -> list[Group]:
        """The groups of a batch; `wrong` may name another `adapter`, or a `temperature`."""
        found = []
        for place, prompt in enumerate(PROMPTS):
            task = SampleTask(
                prompt,
                seed=100 * self.run.step + place,
                num_samples=SPEC.group_size,
                max_tokens=8,
                temperature=wrong.get("temperature", 1.0),
            )
            folder = self.folder_of(wrong.get("adapter", version))
            drawn = await self.sampler.sample(task, AdapterRef(f"{version} from {folder.name}", folder))
            sample = Sample(batch=self.run.step, group=place, attempt=0, prompt=place, version=version)
            score = Score(batch=self.run.step, group=place, attempt=0, sample=sample)
            verdicts = tuple(map(rewarded, drawn.sequences))
            found.append(Group(score, drawn.sequences, verdicts, None))
        return found

    def train(self, groups: list[Group]) -> Step:
        """What is known of the step, after which there is a new version."""
        taught = [group for group in groups if len({one.value for one in group.verdicts}) > 1]
        prompts = [PROMPTS[group.score.group] for group in taught]
        batch = make_batch(SPEC, taught, prompts, None)
        scores = tuple(group.score for group in taught)
        train = Train(step=self.run.step, seq=2, groups=scores, learning_rate=ADAM.learning_rate)
        passed = self._pass(batch)
        self.trainer.optim_step(self.run, ADAM)
        self.publish()
        return Step(Report(row=train.step, train=train, groups=scores), groups, batch, passed)

    def _pass(self, batch: Batch) -> ForwardBackwardOutput:
        request = batch.request("s:train:0", 2)
        work = PassWork(self.run, request.data, request.loss_fn, request.loss_fn_config, forward_only=False)
        (result,) = self.trainer.run_passes([work])
        extra = extra_outputs(result)
        outputs = [
            {"logprobs": logprobs, **{name: arrays[index] for name, arrays in extra.items()}}
            for index, logprobs in enumerate(result.logprobs)
        ]
        return ForwardBackwardOutput(outputs, result.metrics)

    async def gap(self, step: Step, **wrong: Any) -> float:
        """As a probe finds it: the sampler reads what was trained, under the weights that trained it."""
        assert step.report.train is not None and step.batch is not None and step.passed is not None
        folder = self.folder_of(wrong.get("adapter", step.report.train.step))
        adapter = AdapterRef(f"probe {folder.name}", folder)
        trained = alarms.completions(step.batch, step.passed.logprobs)
        differences: list[np.ndarray] = []
        for rollout, trained_T in zip(step.batch.rollouts, trained, strict=True):
            tokens = [*rollout.prompt_P, *rollout.sequence.tokens.tolist()]
            task = SampleTask(tokens, seed=0, max_tokens=1, prompt_logprobs=True)
            read = (await self.sampler.sample(task, adapter)).prompt_logprobs
            assert read is not None
            differences.append(trained_T - read[len(rollout.prompt_P) :])
        return alarms.distance(differences)


@pytest.fixture
async def pair(tiny_model_dir: Path, tmp_path: Path) -> AsyncIterator[Pair]:
    source = str(tiny_model_dir)
    sampler = TorchEngine(load_base(source), source)
    yield Pair(TrainEngine(load_base(source)), sampler, tmp_path)
    await sampler.close()


async def test_clean_steps_agree_and_what_is_wrong_is_seen_at_once_without_staleness(pair: Pair):
    for version in range(4):
        step = pair.train(await pair.draw(version))
        found = metrics.row_of(step, SPEC, {}, NOW, None)
        assert metrics.alarm_of(step, SPEC) is None
        assert (found.ratio, found.ratio_max) == pytest.approx((1.0, 1.0), abs=1e-3)
        assert found.gap == pytest.approx(0.0, abs=1e-4) and found.entropy_errors == pytest.approx(0.0, abs=5)
    hot = pair.train(await pair.draw(4, temperature=1.6))
    assert "more surprising" in str(metrics.alarm_of(hot, SPEC))
    wrong = pair.train(await pair.draw(5, adapter=0))
    assert "differ by" in str(metrics.alarm_of(wrong, SPEC))


async def test_clean_steps_agree_and_what_is_wrong_is_seen_at_once_with_staleness(pair: Pair):
    following = await pair.draw(0)
    pair.train(await pair.draw(0))
    for version in range(1, 4):
        drawn, following = following, await pair.draw(version)
        step = pair.train(drawn)
        found = metrics.row_of(step, SPEC, {}, NOW, None)
        assert metrics.alarm_of(step, SPEC) is None
        assert (
            found.kl_sampler_k3 is not None and found.kl_sampler_k3 > 1e-3
        )  # they differ, for a good reason
        assert found.gap is None and found.entropy_errors == pytest.approx(0.0, abs=5)
        assert await pair.gap(step) < 1e-4
    assert alarms.gap_alarm(await pair.gap(step, adapter=1), SPEC) is not None
    pair.train(following)
    cold = pair.train(await pair.draw(4, temperature=0.5))
    assert "less surprising" in str(metrics.alarm_of(cold, SPEC))
