"""What every sampling engine promises, checked against plain transformers in float32."""

import asyncio
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rekindle.types.errors import InvalidField
from rekindle.types.results import SampledSequence
from services.model.lora import LoraSpec
from services.sample.engine import AdapterRef, Engine, SampleTask, StopRule
from tests.sample.conftest import Reference, make_adapter
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.asyncio(loop_scope="session")

PROMPT = "User: What is 2 + 5?\n\nAssistant:"
ENDLESS = StopRule(eos=False)
CLOSE = 1e-4


@pytest.fixture
def prompt(reference: Reference) -> list[int]:
    return reference.tokenizer.encode(PROMPT)


def task(prompt: list[int], **fields) -> SampleTask:
    return SampleTask(**{"tokens": prompt, "seed": 0, "max_tokens": 12, "stop": ENDLESS, **fields})


async def one(engine: Engine, asked: SampleTask, adapter: AdapterRef | None = None) -> SampledSequence:
    (sequence,) = (await engine.sample(asked, adapter)).sequences
    return sequence


def tokens_of(sequences: list[SampledSequence]) -> list[list[int]]:
    return [sequence.tokens.tolist() for sequence in sequences]


@pytest.mark.parametrize("number", [None, 0, 1, 2])
@pytest.mark.parametrize(
    "how", [{}, {"temperature": 0.5}, {"temperature": 1.7}, {"top_p": 0.6}, {"top_k": 3}, {"temperature": 0}]
)
async def test_logprobs_are_those_of_the_raw_model(engine, reference, adapters, prompt, number, how):
    adapter = None if number is None else adapters[number]
    result = await engine.sample(task(prompt, num_samples=3, **how), adapter)
    assert len(result.sequences) == 3
    for sequence in result.sequences:
        expected = reference.of_sampled(prompt, sequence.tokens.tolist(), adapter)
        np.testing.assert_allclose(sequence.logprobs, expected, atol=CLOSE)


@pytest.mark.parametrize("number", [None, 0, 1])
async def test_prompt_logprobs_are_those_of_a_plain_forward(engine, reference, adapters, prompt, number):
    adapter = None if number is None else adapters[number]
    result = await engine.sample(task(prompt, max_tokens=1, prompt_logprobs=True), adapter)
    assert result.prompt_logprobs is not None and np.isnan(result.prompt_logprobs[0])
    expected = reference.of_sampled(prompt[:1], prompt[1:], adapter)
    np.testing.assert_allclose(result.prompt_logprobs[1:], expected, atol=CLOSE)
    assert len(result.sequences) == 1 and len(result.sequences[0].tokens) == 1


@pytest.mark.parametrize("number", [None, 0, 2])
async def test_temperature_zero_is_greedy(engine, reference, adapters, prompt, number):
    adapter = None if number is None else adapters[number]
    sequence = await one(engine, task(prompt, temperature=0, max_tokens=20, stop=StopRule()), adapter)
    assert sequence.tokens.tolist() == reference.greedy(prompt, 20, adapter)


async def test_a_seed_repeats_and_its_samples_differ(engine, prompt):
    asked = task(prompt, num_samples=4, seed=11, temperature=1.5)
    first, again = await engine.sample(asked, None), await engine.sample(asked, None)
    other = await engine.sample(replace(asked, seed=12), None)
    assert tokens_of(first.sequences) == tokens_of(again.sequences)
    assert len({tuple(tokens) for tokens in tokens_of([*first.sequences, *other.sequences])}) == 8


async def test_a_sample_does_not_depend_on_how_many_there_are(engine, prompt):
    three = await engine.sample(task(prompt, num_samples=3, seed=5), None)
    five = await engine.sample(task(prompt, num_samples=5, seed=5), None)
    assert tokens_of(five.sequences)[:3] == tokens_of(three.sequences)


async def test_neighbours_do_not_change_tokens(engine, adapters, prompt):
    asked = [task(prompt[:-i] if i else prompt, seed=i, num_samples=2, max_tokens=5 + i) for i in range(8)]
    refs = [None, *adapters] * 2
    alone = [await engine.sample(t, ref) for t, ref in zip(asked, refs, strict=True)]
    together = await asyncio.gather(*(engine.sample(t, ref) for t, ref in zip(asked, refs, strict=True)))
    for single, joint in zip(alone, together, strict=True):
        assert tokens_of(single.sequences) == tokens_of(joint.sequences)
        for a, b in zip(single.sequences, joint.sequences, strict=True):
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=CLOSE)


@pytest.mark.parametrize(
    ("fields", "keep"),
    [
        ({}, lambda p: p),
        ({"temperature": 0.7}, lambda p: normal(p ** (1 / 0.7))),
        ({"top_k": 2}, lambda p: top_k(p, 2)),
        ({"top_p": 0.5}, lambda p: top_p(p, 0.5)),
        (
            {"temperature": 1.5, "top_k": 5, "top_p": 0.8},
            lambda p: top_p(top_k(normal(p ** (1 / 1.5)), 5), 0.8),
        ),
    ],
)
async def test_draws_follow_the_distribution(engine, reference, prompt, fields, keep):
    count = 4000
    result = await engine.sample(task(prompt, num_samples=count, max_tokens=1, **fields), None)
    drawn = np.bincount([int(s.tokens[0]) for s in result.sequences], minlength=engine.vocab_size)
    expected = keep(reference.logprobs(prompt)[-1].exp().double().numpy()) * count
    assert drawn[expected == 0].sum() == 0
    often = expected >= 5
    square = ((drawn - expected)[often] ** 2 / expected[often]).sum()
    freedom = often.sum() - 1
    assert square <= freedom + 5 * np.sqrt(2 * freedom) + 1e-9


def normal(p):
    return p / p.sum()


def top_k(p, k):
    return normal(np.where(p >= np.sort(p)[-k], p, 0))


def top_p(p, mass):
    order = np.argsort(-p)
    before = np.cumsum(p[order]) - p[order]
    return normal(np.where(np.isin(np.arange(len(p)), order[before < mass]), p, 0))


async def test_rows_of_one_batch_keep_their_own_parameters(engine, reference, prompt):
    ways = [{"temperature": 0}, {"top_k": 1}, {"top_p": 1e-6}, {"temperature": 0.7}, {"temperature": 2.0}]
    results = await asyncio.gather(*(engine.sample(task(prompt, seed=3, **way), None) for way in ways))
    texts = [tokens_of(result.sequences)[0] for result in results]
    assert texts[0] == texts[1] == texts[2] == reference.greedy(prompt, 12)[:12]
    assert texts[4] != texts[0]


async def test_the_end_token_stops_unless_nothing_stops(engine, reference, prompt):
    end = reference.tokenizer.eos_token_id
    raw = await engine.sample(task(prompt, num_samples=32, max_tokens=300, temperature=2.0), None)
    index = next(i for i, s in enumerate(raw.sequences) if end in s.tokens[:-1])
    free = raw.sequences[index]
    assert (free.stop_reason, len(free.tokens)) == ("length", 300)
    stopping = task(prompt, num_samples=32, max_tokens=300, temperature=2.0, stop=StopRule())
    stopped = (await engine.sample(stopping, None)).sequences[index]
    cut = free.tokens.tolist().index(end) + 1
    assert stopped.stop_reason == "stop"
    assert stopped.tokens.tolist() == free.tokens[:cut].tolist()
    np.testing.assert_allclose(stopped.logprobs, free.logprobs[:cut], atol=CLOSE)


async def test_listed_tokens_stop_and_are_kept_once(engine, prompt):
    free = (await one(engine, task(prompt, seed=4, max_tokens=40))).tokens.tolist()
    token = free[5]
    rule = StopRule(eos=True, tokens=frozenset({token, 501}))
    sequence = await one(engine, task(prompt, seed=4, max_tokens=40, stop=rule))
    assert sequence.stop_reason == "stop"
    assert sequence.tokens.tolist() == free[: free.index(token) + 1]
    assert len(sequence.logprobs) == len(sequence.tokens)


async def test_strings_stop_wherever_they_end(engine, reference, prompt):
    decode = reference.tokenizer.decode
    free = (await one(engine, task(prompt, seed=4, max_tokens=60))).tokens.tolist()
    text = decode(free)
    spanning = [decode(free[at : at + 3])[1:] for at in (3, 10, 20)]
    inside = [decode(free[at])[1:-1] for at in range(5, 40) if len(decode(free[at])) > 3][:2]
    assert inside and all(spanning)
    for string in [*spanning, *inside, text[7:30]]:
        want = next(n for n in range(1, 61) if string in decode(free[:n]))
        rule = StopRule.parse([string, "never in any text"])
        sequence = await one(engine, task(prompt, seed=4, max_tokens=60, stop=rule))
        assert (sequence.tokens.tolist(), sequence.stop_reason) == (free[:want], "stop"), string


async def test_a_string_may_name_a_special_token(engine, reference, prompt):
    end = reference.tokenizer.eos_token_id
    asked = task(prompt, num_samples=32, max_tokens=300, temperature=2.0)
    by_id = await engine.sample(replace(asked, stop=StopRule(eos=True)), None)
    by_name = await engine.sample(replace(asked, stop=StopRule(eos=False, strings=("<|end|>",))), None)
    assert tokens_of(by_id.sequences) == tokens_of(by_name.sequences)
    assert any(s.tokens[-1] == end and s.stop_reason == "stop" for s in by_name.sequences)


async def test_max_tokens_and_the_context_end_a_sequence(engine, prompt):
    assert len((await one(engine, task(prompt, max_tokens=7))).tokens) == 7
    long = (prompt * 100)[: engine.context_length - 5]
    for max_tokens in (None, 50):
        sequence = await one(engine, task(long, max_tokens=max_tokens))
        assert (len(sequence.tokens), sequence.stop_reason) == (5, "length")


async def test_topk_gives_the_likeliest_tokens(engine, reference, prompt):
    result = await engine.sample(task(prompt, topk_prompt=4, topk_sample=3, num_samples=2), None)
    assert result.topk_prompt is not None and result.topk_prompt.token_ids.shape == (len(prompt), 4)
    values, ids = reference.logprobs(prompt)[:-1].topk(4)
    np.testing.assert_array_equal(result.topk_prompt.token_ids[1:], ids)
    np.testing.assert_allclose(result.topk_prompt.logprobs[1:], values, atol=CLOSE)
    assert result.topk_prompt.logprobs[0].max() < -1000
    for sequence in result.sequences:
        full = reference.logprobs([*prompt, *sequence.tokens.tolist()])[len(prompt) - 1 : -1]
        assert sequence.topk is not None and sequence.topk.token_ids.dtype == np.int32
        np.testing.assert_allclose(sequence.topk.logprobs, full.topk(3).values, atol=CLOSE)
        chosen = full.gather(1, torch.from_numpy(sequence.topk.token_ids).long())
        np.testing.assert_allclose(sequence.topk.logprobs, chosen, atol=CLOSE)


async def test_targets_are_scored_where_asked(engine, reference, prompt, adapters):
    target = np.full((len(prompt) - 1, 3), -1, np.int64)
    target[2, 0], target[2, 2], target[-1, 1] = 7, 9, 11
    result = await engine.sample(
        task(prompt, target_prompt=target, prompt_logprobs=True, prompt_logprobs_last_n=2), adapters[0]
    )
    expected = np.zeros(target.shape, np.float32)
    full = reference.logprobs(prompt, adapters[0])
    expected[2, 0], expected[2, 2], expected[-1, 1] = full[2, 7], full[2, 9], full[len(prompt) - 2, 11]
    np.testing.assert_allclose(result.target_prompt_logprobs, expected, atol=CLOSE)


async def test_the_last_n_positions_alone_are_scored(engine, reference, prompt):
    asked = task(prompt, prompt_logprobs=True, topk_prompt=2, prompt_logprobs_last_n=3)
    result = await engine.sample(asked, None)
    assert result.prompt_logprobs is not None and result.topk_prompt is not None
    assert np.isnan(result.prompt_logprobs[:-3]).all()
    expected = reference.of_sampled(prompt[:1], prompt[1:])
    np.testing.assert_allclose(result.prompt_logprobs[-3:], expected[-3:], atol=CLOSE)
    assert (result.topk_prompt.logprobs[:-3] < -1000).all() and (result.topk_prompt.logprobs[-3:] > -50).all()


async def test_alternative_tokens_are_drawn_at_the_temperature(engine, reference, prompt):
    count, prompt = engine.vocab_size, prompt[:5]
    asked = task(prompt, alt_tokens_k=count, temperature=0.7, prompt_logprobs_last_n=1, prompt_logprobs=True)
    alt = (await engine.sample(asked, None)).alt_tokens
    assert alt is not None and alt.tokens.shape == alt.logprobs.shape == (len(prompt) - 1, count)
    full = reference.logprobs(prompt)[:-1]
    np.testing.assert_allclose(alt.logprobs, full.gather(1, torch.from_numpy(alt.tokens)), atol=CLOSE)
    tempered = (full / 0.7).softmax(-1).double().numpy()
    for row, p in zip(alt.tokens, tempered, strict=True):
        best = p.argmax()
        error = np.sqrt(p[best] * (1 - p[best]) / count)
        assert abs((row == best).mean() - p[best]) < 5 * error + 1e-9


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tokens": []}, "prompt"),
        ({"tokens": [1] * 512}, "prompt"),
        ({"tokens": [5, 99_999]}, "prompt"),
        ({"num_samples": 0}, "num_samples"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": -5}, "top_k"),
        ({"topk_prompt": 100_000}, "topk_prompt"),
        ({"prompt_logprobs_last_n": 0}, "prompt_logprobs_last_n"),
        ({"target_prompt": np.zeros((3, 1), np.int64)}, "target_prompt_logprobs"),
    ],
)
async def test_a_task_that_cannot_run_names_the_field(engine, fields, field):
    with pytest.raises(InvalidField) as caught:
        await engine.sample(task([1, 2, 3], **fields), None)
    assert caught.value.field == field


async def test_a_broken_adapter_fails_its_own_request_alone(engine, adapters, prompt, tmp_path):
    missing = AdapterRef("run/sampler/missing", tmp_path / "missing")
    good, bad = await asyncio.gather(
        engine.sample(task(prompt), adapters[0]), engine.sample(task(prompt), missing), return_exceptions=True
    )
    assert isinstance(bad, OSError)
    assert len(good.sequences[0].tokens) == 12


async def test_an_adapter_of_other_shapes_is_refused_alone(engine, adapters, prompt, tmp_path):
    other = make_tiny_model(tmp_path / "other", steps=0, head_dim=64)
    stranger = make_adapter(other, tmp_path / "stranger", LoraSpec(rank=4, seed=1))
    good, bad = await asyncio.gather(
        engine.sample(task(prompt), adapters[0]),
        engine.sample(task(prompt), stranger),
        return_exceptions=True,
    )
    assert isinstance(bad, ValueError) and "stranger" in str(bad)
    assert len(good.sequences[0].tokens) == 12


async def test_weights_that_are_not_finite_are_refused_alone(engine, adapters, prompt, tmp_path):
    broken = AdapterRef("run/sampler/broken", tmp_path / "broken")
    shutil.copytree(adapters[0].folder, broken.folder)
    weights = broken.folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, weights)
    with pytest.raises(ValueError, match="finite"):
        await engine.sample(task(prompt), broken)
    assert len((await one(engine, task(prompt))).tokens) == 12


async def test_versions_beyond_the_limit_are_evicted_and_read_again(engine, reference, adapters, prompt):
    for _ in range(2):
        for adapter in adapters:
            sequence = await one(engine, task(prompt), adapter)
            expected = reference.of_sampled(prompt, sequence.tokens.tolist(), adapter)
            np.testing.assert_allclose(sequence.logprobs, expected, atol=CLOSE)
            assert engine.adapter_versions[-1] == adapter.version
            assert len(engine.adapter_versions) <= 2 < len(adapters)


async def test_a_loaded_version_is_not_read_again_and_an_evicted_one_is(engine, adapters, prompt, tmp_path):
    gone = AdapterRef("run/sampler/moved", tmp_path / "moved")
    shutil.copytree(adapters[0].folder, gone.folder)
    first = await one(engine, task(prompt), gone)
    shutil.rmtree(gone.folder)
    again = await one(engine, task(prompt), gone)
    assert first.tokens.tolist() == again.tokens.tolist()
    for adapter in adapters:
        await one(engine, task(prompt), adapter)
    with pytest.raises(OSError):
        await engine.sample(task(prompt), gone)


async def test_a_cached_prompt_never_serves_another_version(engine, reference, adapters, prompt):
    long = (prompt * 40)[:400]
    for adapter in (None, *adapters[:2], None, *adapters[:2]):
        result = await engine.sample(task(long, max_tokens=4), adapter)
        expected = reference.of_sampled(long, result.sequences[0].tokens.tolist(), adapter)
        np.testing.assert_allclose(result.sequences[0].logprobs, expected, atol=CLOSE)
        assert 0 <= result.prompt_cache_hit_tokens < len(long)


async def test_requests_join_and_leave_while_others_run(engine, prompt):
    long = asyncio.create_task(engine.sample(task(prompt, max_tokens=400), None))
    short = [await engine.sample(task(prompt, seed=i, max_tokens=3), None) for i in range(5)]
    assert not long.done(), "the long request must outlast the short ones for this test to say anything"
    assert [len(r.sequences[0].tokens) for r in short] == [3] * 5
    assert len((await long).sequences[0].tokens) == 400


async def test_a_cancelled_request_leaves_the_engine_working(engine, prompt):
    running = asyncio.create_task(engine.sample(task(prompt, max_tokens=400, num_samples=8), None))
    await engine.sample(task(prompt, max_tokens=2), None)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len((await one(engine, task(prompt))).tokens) == 12
