"""The whole stack on a bucket: no service finds another's files on a disk."""

from pathlib import Path

import psutil
import pytest

from rekindle import AdamParams, Datum, ModelInput, SamplingParams, ServiceClient, TrainingClient
from tests.s3_server import Bucket, running_bucket
from tests.stack import running_stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
WAIT = 90.0
ROWS = [{"n": number, "text": f"row {number % 40}"} for number in range(300)]


def data(length: int = 8) -> list[Datum]:
    ids = list(range(5, 6 + length))
    return [Datum(ModelInput.from_ints(ids[:-1]), {"target_tokens": ids[1:], "weights": [1.0] * length})]


def train(training: TrainingClient, steps: int, batch: list[Datum] | None = None) -> float:
    """The loss of the last step."""
    for _ in range(steps):
        passed = training.forward_backward(batch or data(), "cross_entropy")
        training.optim_step(AdamParams(learning_rate=1e-2)).result(WAIT)
    return passed.result(WAIT).metrics["loss:sum"]


def in_store(bucket: Bucket, part: str) -> list[str]:
    return [key for key in list(bucket.objects) if part in key]


def test_a_stack_trains_samples_saves_and_keeps_datasets_in_a_bucket(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    with running_bucket() as bucket:
        environment = bucket.environment | {
            "REKINDLE_BLOBS": "s3://blobs/stack",
            "REKINDLE_BLOB_CACHE": str(tmp_path / "cache"),
            "REKINDLE_BLOB_CACHE_BYTES": "1000",  # nothing stays that nobody uses
        }
        with (
            running_stack(tiny_model_dir, tmp_path / "data", environment=environment) as stack,
            ServiceClient(stack.url) as service,
        ):
            training = service.create_lora_training_client(stack.base_model, rank=4, seed=1).result(WAIT)
            train(training, 2)
            path = training.save_state("middle").result(WAIT).path
            assert in_store(bucket, "/weights/")
            sampler = training.save_weights_and_get_sampling_client().result(WAIT)
            greedy = SamplingParams(max_tokens=4, temperature=0.0)
            assert len(sampler.sample([5, 6], 1, greedy).result(WAIT).sequences[0].tokens) == 4

            psutil.Process(stack.row("train")["pid"]).kill()
            after = train(training, 1)  # by the next trainer, from the log and what lies in the bucket
            resumed = service.create_training_client_from_state_with_optimizer(path).result(WAIT)
            assert train(resumed, 1) == pytest.approx(after, rel=1e-5)

            files = training.download(tmp_path / "export").result(WAIT)
            assert {file.name for file in files} == {"adapter_config.json", "adapter_model.safetensors"}

            datasets = service.datasets
            datasets.upload(ROWS, "rows").result(WAIT)
            unique = datasets.dedupe("rows", ["text"]).result(WAIT)
            assert unique.rows == 40 and list(datasets.rows("rows", 1)) == ROWS
            file = datasets.download("rows", tmp_path / "rows.parquet", version=1).result(WAIT)
            assert file.read_bytes() in [bucket.objects[key] for key in in_store(bucket, "/datasets/")]
            assert not in_store(bucket, "/uploads/"), "the parts went once their version stood"
        assert not (tmp_path / "data" / "blobs").exists()
