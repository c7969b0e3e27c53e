"""One stack with a base model of each family: all are trained and sampled from at once, and none is mixed up."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import tinker
import torch
from tinker import types
from transformers import AutoModelForCausalLM

from tests.e2e.loops import WAIT, client, tokens, train
from tests.model.random_models import plain_logprobs, save_random_model
from tests.stack import Stack, running_stack, sdk_client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FAMILIES = {"qwen": "tied", "lab/llama:3": "llama3", "gemma": "gemma3_with_images"}
"""Architecture of each base model by its name."""
PROMPT = [5 + 7 * step % 90 for step in range(40)]
"""Five windows of the model with a window."""
CLOSE = 1e-4


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    return {
        name: save_random_model(architecture, folder / architecture)
        for name, architecture in FAMILIES.items()
    }


@pytest.fixture(scope="module")
def families(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    first, *others = (f"{name}={folder}" for name, folder in folders.items())
    options = [part for other in others for part in ("--base-model", other)]
    with running_stack(first, tmp_path_factory.mktemp("stack") / "data", options) as stack:
        yield stack


@pytest.fixture(scope="module")
def service(families: Stack) -> Iterator[tinker.ServiceClient]:
    with sdk_client(families) as opened:
        yield opened


def plain(folder: Path) -> torch.Tensor:
    """What plain transformers says of the prompt."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    ids = torch.tensor(PROMPT)
    with torch.no_grad():
        return plain_logprobs(model, ids[:-1], ids[1:])


def prompt_logprobs(sampling: tinker.SamplingClient) -> np.ndarray:
    return np.array(sampling.compute_logprobs(tokens(*PROMPT)).result(WAIT)[1:], np.float32)


def test_the_capabilities_list_all(families: Stack):
    answer = httpx.get(f"{families.url}/api/v1/get_server_capabilities", trust_env=False)
    served = answer.json()["supported_models"]
    assert sorted(model["model_name"] for model in served) == sorted(FAMILIES)
    assert {model["max_context_length"] for model in served} == {128}


def test_all_families_sample_and_train_at_once(service: tinker.ServiceClient, folders: dict[str, Path]):
    expected = {name: plain(folder) for name, folder in folders.items()}

    def check(name: str) -> list[float]:
        untrained = service.create_sampling_client(base_model=name).result(WAIT)
        np.testing.assert_allclose(prompt_logprobs(untrained), expected[name], atol=CLOSE)
        training = client(service, name)
        assert training.get_info().model_name == name
        losses = train(training, steps=5)
        assert losses[-1] < losses[0]
        trained = training.save_weights_and_get_sampling_client().result(WAIT)
        scored = prompt_logprobs(trained)
        assert np.abs(scored - expected[name].numpy()).max() > 0.05, "the adapter changes the model"
        np.testing.assert_allclose(scored, trainer_logprobs(training), atol=CLOSE)
        check_samples(training, trained)
        return losses

    with ThreadPoolExecutor(len(FAMILIES)) as pool:
        curves = list(pool.map(check, FAMILIES))
    assert len({losses[0] for losses in curves}) == len(FAMILIES), "each run trains its own model"


def trainer_logprobs(training: tinker.TrainingClient, ids: list[int] = PROMPT) -> np.ndarray:
    """What the trainer says of each token after the first."""
    inputs = {"target_tokens": ids[1:], "weights": [1.0] * (len(ids) - 1)}
    datum = types.Datum(model_input=tokens(*ids[:-1]), loss_fn_inputs=inputs)
    found = training.forward([datum], "cross_entropy").result(WAIT)
    return np.array(found.loss_fn_outputs[0]["logprobs"].tolist(), np.float32)


def check_samples(training: tinker.TrainingClient, trained: tinker.SamplingClient) -> None:
    """The logprobs that come with samples are the trainer's."""
    params = types.SamplingParams(max_tokens=20, seed=1, stop=[])
    for sequence in trained.sample(tokens(*PROMPT), 2, params).result(WAIT).sequences:
        assert len(sequence.tokens) == 20
        expected = trainer_logprobs(training, [*PROMPT, *sequence.tokens])[len(PROMPT) - 1 :]
        np.testing.assert_allclose(sequence.logprobs, expected, atol=CLOSE)


@pytest.mark.filterwarnings("ignore:.*load_state:FutureWarning")
def test_an_adapter_of_one_family_is_not_taken_for_another(service: tinker.ServiceClient):
    first, other = (client(service, name) for name in ("qwen", "gemma"))
    state = first.save_state("state").result(WAIT).path
    with pytest.raises(tinker.TinkerError, match="base model, rank or trained layers differ"):
        other.load_state(state).result(WAIT)
    path = first.save_weights_for_sampler("sampler").result(WAIT).path
    with pytest.raises(tinker.TinkerError, match="the checkpoint is of 'qwen'"):
        service.create_sampling_client(base_model="gemma", model_path=path).result(WAIT)
