"""The whole stack with vLLM as its sampler: weights that the torch trainer made, sampled through the SDK."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest
import tinker
from tinker import types

from tests.conftest import require
from tests.e2e.conftest import connected
from tests.e2e.loops import WAIT, client, tokens, train
from tests.stack import running_stack

PROMPT = list(range(30, 40))
CLOSE = 1e-4


def counted(sampler: tinker.SamplingClient) -> types.SampledSequence:
    """How the sampler goes on with the prompt: the greedy answer."""
    params = types.SamplingParams(max_tokens=8, temperature=0.0, stop=[])
    return sampler.sample(tokens(*PROMPT), 1, params).result(WAIT).sequences[0]


def trained_logprobs(training: tinker.TrainingClient, sampled: list[int]) -> np.ndarray:
    """What the trainer says of the sampled tokens."""
    whole = [*PROMPT, *sampled]
    inputs = {"target_tokens": whole[1:], "weights": [1.0] * (len(whole) - 1)}
    datum = types.Datum(model_input=tokens(*whole[:-1]), loss_fn_inputs=inputs)
    output = training.forward([datum], "cross_entropy").result(WAIT).loss_fn_outputs[0]
    return output["logprobs"].to_numpy()[-len(sampled) :]


def kill_the_sampler(pid: int) -> None:
    """Kill the service above vLLM's process, which shall not outlive it."""
    children = psutil.Process(pid).children(recursive=True)
    (core,) = (child for child in children if "EngineCore" in child.name())
    core.parents()[0].kill()
    _, alive = psutil.wait_procs([core], timeout=20)
    assert not alive


@pytest.mark.vllm
@pytest.mark.timeout(300)
def test_trained_weights_are_sampled_through_vllm(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    require(find_spec("vllm"), "vLLM (task test:vllm)")
    monkeypatch.setenv("REKINDLE_KV_CACHE_GIB", "0.25")
    monkeypatch.setenv("REKINDLE_THREADS", "1")
    with (
        running_stack(tiny_model_dir, tmp_path / "data", ["--engine", "vllm"]) as stack,
        connected(stack.url) as service,
    ):
        training = client(service, stack.base_model)
        previous = counted(service.create_sampling_client(base_model=stack.base_model).result(WAIT)).tokens
        for steps in (4, 12):
            train(training, steps)
            sampler = training.save_weights_and_get_sampling_client().result(WAIT)
            sequence = counted(sampler)
            expected = trained_logprobs(training, sequence.tokens)
            np.testing.assert_allclose(sequence.logprobs, expected, atol=CLOSE)
            assert sequence.tokens != previous, "further steps change what is sampled"
            previous = sequence.tokens
        scored = sampler.compute_logprobs(tokens(*PROMPT, *previous)).result(WAIT)
        np.testing.assert_allclose(scored[len(PROMPT) :], expected, atol=CLOSE)
        params = types.SamplingParams(max_tokens=20, seed=3, temperature=1.0)
        first = [s.tokens for s in sampler.sample(tokens(*PROMPT), 4, params).result(WAIT).sequences]
        kill_the_sampler(stack.pid)
        again = [s.tokens for s in sampler.sample(tokens(*PROMPT), 4, params).result(2 * WAIT).sequences]
        assert first == again and len({tuple(found) for found in first}) > 1
