"""Saving, loading and looking after checkpoints through the SDK and its command line."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import tinker
import torch
from peft import PeftModel
from tinker import types
from transformers import AutoModelForCausalLM

from tests import ending
from tests.e2e.conftest import KEY, connected
from tests.e2e.loops import WAIT, client, loss, tokens, train
from tests.stack import Stack

EXACT = {"rel": 1e-6}


@pytest.fixture(scope="module")
def training(service: tinker.ServiceClient, stack: Stack) -> tinker.TrainingClient:
    found = client(service, stack.base_model)
    train(found, 2)
    return found


def test_going_on_from_a_state_with_its_optimizer_equals_never_having_stopped(
    service: tinker.ServiceClient, stack: Stack
) -> None:
    training = client(service, stack.base_model)
    train(training, 3)
    path = training.save_state("middle").result(WAIT).path
    resumed = service.create_training_client_from_state_with_optimizer(path).result(WAIT)
    assert resumed.model_id != training.model_id and resumed.get_info().lora_rank == 4
    assert train(resumed, 3) == pytest.approx(train(training, 3), **EXACT)


def test_going_on_from_a_state_without_its_optimizer_has_the_weights_alone(
    service: tinker.ServiceClient, training: tinker.TrainingClient
) -> None:
    path = training.save_state("weights-alone").result(WAIT).path
    fresh = service.create_training_client_from_state(path).result(WAIT)
    full = service.create_training_client_from_state_with_optimizer(path).result(WAIT)
    assert loss(fresh) == pytest.approx(loss(full), **EXACT) == pytest.approx(loss(training), **EXACT)
    assert train(fresh, 2)[1] != pytest.approx(train(full, 2)[1], **EXACT)


@pytest.mark.filterwarnings("ignore:.*load_state:FutureWarning")
def test_an_existing_client_takes_a_state_in_place(service: tinker.ServiceClient, stack: Stack) -> None:
    training = client(service, stack.base_model)
    train(training, 2)
    path = training.save_state("back").result(WAIT).path
    before = train(training, 2)
    training.load_state_with_optimizer(path).result(WAIT)
    assert train(training, 2) == pytest.approx(before, **EXACT)
    training.load_state(path).result(WAIT)
    assert loss(training) == pytest.approx(before[0], rel=1e-5)


def test_a_name_is_saved_once_unless_it_may_be_replaced(training: tinker.TrainingClient) -> None:
    path = training.save_state("once").result(WAIT).path
    with pytest.raises(tinker.RequestFailedError, match="exists already") as failed:
        training.save_state("once").result(WAIT)
    assert failed.value.category == types.RequestErrorCategory.User
    assert training.save_state("once", overwrite=True).result(WAIT).path == path
    assert training.save_weights_for_sampler("once").result(WAIT).path.endswith("/sampler_weights/once")


def test_a_named_sampler_checkpoint_is_sampled_and_stays_as_it_was(
    service: tinker.ServiceClient, stack: Stack
) -> None:
    training = client(service, stack.base_model)
    path = training.save_weights_for_sampler("start").result(WAIT).path
    prompt = tokens(5, 6, 7, 8, 9)
    samplers = [service.create_sampling_client(model_path=path).result(WAIT)]
    scores = [samplers[0].compute_logprobs(prompt).result(WAIT)]
    for _ in range(3):  # several snapshots live while training goes on
        train(training, 1)
        samplers.append(training.save_weights_and_get_sampling_client().result(WAIT))
        scores.append(samplers[-1].compute_logprobs(prompt).result(WAIT))
    base = service.create_sampling_client(base_model=stack.base_model).result(WAIT)
    assert base.compute_logprobs(prompt).result(WAIT)[1:] == pytest.approx(scores[0][1:], abs=1e-5)
    assert len({round(score[-1], 4) for score in scores}) == 4, "each snapshot has its own weights"
    for sampler, score in zip(samplers, scores, strict=True):
        assert sampler.compute_logprobs(prompt).result(WAIT)[1:] == pytest.approx(score[1:], abs=1e-5)
    assert samplers[0].get_base_model() == stack.base_model
    assert training.create_sampling_client(path).result(WAIT).get_base_model() == stack.base_model


def test_a_state_can_be_sampled_from_too(
    service: tinker.ServiceClient, training: tinker.TrainingClient
) -> None:
    path = training.save_state("sampled").result(WAIT).path
    sampler = service.create_sampling_client(model_path=path).result(WAIT)
    assert (
        sampler.sample(tokens(5, 6), 1, types.SamplingParams(max_tokens=2)).result(WAIT).sequences[0].tokens
    )


def test_exported_files_load_without_a_key_into_plain_peft(
    rest: tinker.RestClient, training: tinker.TrainingClient, stack: Stack, tmp_path: Path
) -> None:
    path = training.save_weights_external("export").result(WAIT).path
    links = rest.get_external_weights_urls(path).result(WAIT)
    assert links.expires > datetime.now(UTC)
    for name, url in links.urls.items():
        (tmp_path / name).write_bytes(httpx.get(url, trust_env=False).raise_for_status().content)
    base = AutoModelForCausalLM.from_pretrained(stack.base_model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    ids = [5, 6, 7, 8, 9, 10]
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits.float().log_softmax(-1)[0]
    expected = [float(logprobs[i, ids[i + 1]]) for i in range(len(ids) - 1)]
    sampler = training.save_weights_and_get_sampling_client().result(WAIT)
    assert sampler.compute_logprobs(tokens(*ids)).result(WAIT)[1:] == pytest.approx(expected, abs=1e-4)
    assert path.endswith("/external_weights/export")


def test_the_catalogue_lists_describes_and_forgets(
    rest: tinker.RestClient, service: tinker.ServiceClient, stack: Stack
) -> None:
    metadata = {"renderer_name": "role_colon"}
    training = service.create_lora_training_client(stack.base_model, rank=4, user_metadata=metadata).result(
        WAIT
    )
    path = training.save_state("one", ttl_seconds=7200).result(WAIT).path
    other = training.save_weights_for_sampler("two").result(WAIT).path
    run = rest.get_training_run(training.model_id).result(WAIT)
    assert run.user_metadata == metadata and run.base_model == stack.base_model and run.lora_rank == 4
    assert run.last_checkpoint is not None and run.last_checkpoint.tinker_path == path
    assert run.last_sampler_checkpoint is not None and run.last_sampler_checkpoint.tinker_path == other
    assert rest.get_training_run_by_tinker_path(path).result(WAIT).training_run_id == training.model_id
    assert training.model_id in [
        r.training_run_id for r in rest.list_training_runs(limit=5).result(WAIT).training_runs
    ]
    found = rest.list_checkpoints(training.model_id).result(WAIT).checkpoints
    assert [one.checkpoint_id for one in found] == ["sampler_weights/two", "weights/one"], "newest first"
    expires = found[1].expires_at
    assert expires is not None and timedelta(0) < expires - datetime.now(UTC) <= timedelta(seconds=7200)
    assert {path, other} <= {
        one.tinker_path for one in rest.list_user_checkpoints(limit=50).result(WAIT).checkpoints
    }
    about = rest.get_weights_info_by_tinker_path(path).result(WAIT)
    assert about.base_model == stack.base_model and about.lora_rank == 4 and about.train_mlp
    rest.set_checkpoint_ttl_from_tinker_path(path, None).result(WAIT)
    rest.publish_checkpoint_from_tinker_path(path).result(WAIT)
    changed = rest.list_checkpoints(training.model_id).result(WAIT).checkpoints[1]
    assert changed.expires_at is None and changed.public
    rest.unpublish_checkpoint_from_tinker_path(path).result(WAIT)
    rest.delete_checkpoint_from_tinker_path(path).result(WAIT)
    left = rest.list_checkpoints(training.model_id).result(WAIT).checkpoints
    assert [one.checkpoint_id for one in left] == ["sampler_weights/two"]
    with pytest.raises(tinker.NotFoundError):
        rest.delete_checkpoint_from_tinker_path(path).result(WAIT)
    with pytest.raises(tinker.RequestFailedError, match="does not exist"):
        service.create_training_client_from_state(path).result(WAIT)
    assert training.save_state("one").result(WAIT).path == path, "a deleted name is free again"


def test_sessions_and_samplers_are_listed(
    rest: tinker.RestClient, service: tinker.ServiceClient, training: tinker.TrainingClient
) -> None:
    session = training.model_id.split(":")[0]
    assert session in rest.list_sessions(limit=100).result(WAIT).sessions
    found = rest.get_session(session).result(WAIT)
    assert training.model_id in found.training_run_ids
    training.save_weights_and_get_sampling_client().result(WAIT)
    sampler = rest.get_session(session).result(WAIT).sampler_ids[0]
    assert rest.get_sampler(sampler).result(WAIT).base_model


def test_a_closed_session_hears_that_it_is_over(stack: Stack) -> None:
    with connected(stack.url) as service:
        training = client(service, stack.base_model)
        session = training.model_id.split(":")[0]
    answer = httpx.post(
        f"{stack.url}/api/v1/session_heartbeat", json={"session_id": session}, trust_env=False
    )
    assert answer.status_code == 410


@pytest.fixture(scope="module")
def cli(stack: Stack) -> "Cli":
    return Cli(stack.url)


class Cli:
    """The `tinker` command, with JSON on stdout."""

    def __init__(self, url: str) -> None:
        self._environment = {
            "TINKER_BASE_URL": url,
            "TINKER_API_KEY": KEY,
            "TINKER_TELEMETRY": "0",
            "PATH": "/usr/bin:/bin",
            "HOME": "/nonexistent",
            "HF_HUB_OFFLINE": "1",
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", ending.__file__, "tinker.cli", *arguments]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=100)

    def __call__(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout


@pytest.mark.slow
def test_the_command_line_lists_describes_downloads_and_deletes(
    cli: Cli, training: tinker.TrainingClient, stack: Stack, tmp_path: Path
) -> None:
    path = training.save_state("shell").result(WAIT).path
    assert stack.base_model in cli("-f", "json", "model", "list")
    assert training.model_id in cli("-f", "json", "run", "list")
    assert json.loads(cli("-f", "json", "run", "info", training.model_id))
    assert path in cli("-f", "json", "checkpoint", "list", "--run-id", training.model_id)
    assert path in cli("-f", "json", "checkpoint", "info", path)
    cli("checkpoint", "publish", path)
    cli("checkpoint", "unpublish", path)
    cli("checkpoint", "set-ttl", path, "--ttl", "7200")
    cli("checkpoint", "download", path, "--output", str(tmp_path))
    files = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files
    cli("checkpoint", "delete", path, "--yes")
    assert path not in cli("-f", "json", "checkpoint", "list", "--run-id", training.model_id)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("billing", "checkpoint-storage"),
        ("session", "export-trace", "x"),
        ("auth", "whoami"),
        ("run", "info", "x"),
    ],
)
def test_the_command_line_says_what_is_not_offered(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli.run(*arguments)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr + done.stdout
