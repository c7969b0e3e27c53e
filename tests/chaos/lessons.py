"""Work for the services whose outcome can be compared to the last bit."""

from dataclasses import dataclass
from pathlib import Path

from rekindle import AdamParams, SamplingParams, ServiceClient, TrainingClient
from tests.sdk.test_sdk_stack import PROMPT, WAIT, data

GRADER = {"type": "math", "params": {"column": "answer"}}
ITEMS = [{"prompt": "2 + 3 =", "completion": str(n), "columns": {"answer": "5"}} for n in range(4, 7)]
ROWS = [{"question": f"{n} + {n}", "answer": 2 * n} for n in range(20)]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What came of some steps."""

    losses: list[float]
    logprobs: list[bytes]
    adapter: bytes


def new_run(service: ServiceClient, base: str, seed: int | None = 1) -> TrainingClient:
    return service.create_lora_training_client(base, rank=4, seed=seed).result(WAIT)


def learn(training: TrainingClient, folder: Path) -> Lesson:
    """Steps with two saves among them, all queued at once."""
    passes, saves = [], []
    for step in range(4):
        passes += [training.forward_backward(data(), "cross_entropy") for _ in range(2)]
        training.optim_step(AdamParams(learning_rate=0.01))
        if step % 2:
            saves.append(training.save_state(f"step-{step}"))
    results = [one.result(WAIT) for one in passes]
    assert [save.result(WAIT).path.rpartition("/")[2] for save in saves] == ["step-1", "step-3"]
    training.download(folder, "end").result(WAIT)
    return Lesson(
        [one.metrics["loss:sum"] for one in results],
        [row.tobytes() for one in results for row in one.logprobs],
        (folder / "adapter_model.safetensors").read_bytes(),
    )


@dataclass(frozen=True, slots=True)
class Works:
    """What came of a command for each work queue but the one of checkpoints, which only removes."""

    tokens: list[list[int]]
    logprobs: list[list[float]]
    scores: list[float | None]
    versions: list[tuple[int, int, str]]
    """(number, rows, sha256 of the content) of a dataset's versions."""


def work(service: ServiceClient, training: TrainingClient, name: str) -> Works:
    """A sample, scores, a dataset, and a checkpoint that is saved and deleted, called `name`."""
    sampler = service.create_sampling_client(training.info.model_data.model_name).result(WAIT)
    service.checkpoints.delete(training.save_state(name).result(WAIT).path).result(WAIT)
    sample = sampler.sample(PROMPT, 4, SamplingParams(max_tokens=12, seed=3))
    score = service.rewards.score(GRADER, ITEMS)
    service.datasets.upload(ROWS, f"points/{name}").result(WAIT)
    sequences, scores = sample.result(WAIT).sequences, score.result(WAIT).scores
    versions = service.datasets.versions(f"points/{name}").result(WAIT)
    return Works(
        [one.tokens for one in sequences],
        [one.logprobs for one in sequences],
        [one.value for one in scores],
        [(one.version, one.rows, one.sha256) for one in versions],
    )
