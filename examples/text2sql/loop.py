"""THE loop: a language model learns to write SQL by running it, through the Tinker API, with either SDK.

One step: sample groups of answers, have each run on its database, centre the rewards of a group, one policy-gradient
update (importance sampling, mean-centred advantages, no KL). It sees questions and reference rows, never SQL to
imitate. Questions come from the `data` service and rewards from the `reward` service unless the command line says
otherwise. `--rewards shuffled` is the same loop with the rewards permuted over the batch.

Axes: G rollouts of a group, T tokens of prompt and completion but one.
"""

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import rekindle
from examples.text2sql.adapter import download_adapter
from examples.text2sql.clients import Sampler, Sdk, Training, load_sdk
from examples.text2sql.dataset import through_service
from examples.text2sql.evaluate import Matches, evaluate, execution_match
from examples.text2sql.experiment import Options, prepare, read_options
from examples.text2sql.judge import Verdict
from examples.text2sql.loop_judge import LoopJudge
from examples.text2sql.own_data import OwnDataError
from examples.text2sql.prompts import MAX_SQL_TOKENS, prompt_tokens, sql_of
from examples.text2sql.questions import Task, Tasks
from examples.text2sql.record import Record
from examples.text2sql.reward_judge import RewardJudge
from examples.text2sql.scoring import Judge, JudgeError
from examples.text2sql.show import Show, show_result
from examples.text2sql.stack import API_KEY, Stack, StackError, running_stack

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GROUPS, GROUP_SIZE = 16, 8
RANK, LEARNING_RATE = 16, 1e-3
EVALUATE_EVERY = 10
MAX_EXCLUDED = 0.5  # of a step's rollouts; what is left would hardly be the task
READY = 0.35  # below this share of right answers at temperature 1 there is little to select from


@dataclass(frozen=True)
class Rollout:
    """One sampled answer with the policy's log-probability of each token, and what it earned."""

    prompt: list[int]
    completion: list[int]
    logprobs: list[float]
    reward: float


def roll_out(
    sdk: Sdk,
    sampler: Sampler,
    tokenizer: "PreTrainedTokenizerBase",
    judge: Judge,
    tasks: Sequence[Task],
    rng: random.Random,
) -> list[list[Rollout]]:
    """One group of scored rollouts a task, less those on which the judge failed.

    All groups are in flight before the first is awaited, and each is judged while others are being sampled.
    """
    prompts = [prompt_tokens(tokenizer, task.schema, task.question) for task in tasks]
    futures = [
        sampler.sample(
            prompt=sdk.ModelInput.from_ints(prompt),
            num_samples=GROUP_SIZE,
            sampling_params=sdk.SamplingParams(
                max_tokens=MAX_SQL_TOKENS, temperature=1.0, seed=rng.getrandbits(31)
            ),
        )
        for prompt in prompts
    ]
    judged = []
    for task, future in zip(tasks, futures, strict=True):
        sequences = future.result().sequences
        answers = [(task, sql_of(tokenizer, sequence.tokens)) for sequence in sequences]
        judged.append((sequences, judge.score(answers)))
    return [
        scored(prompt, sequences, scores.result())
        for prompt, (sequences, scores) in zip(prompts, judged, strict=True)
    ]


def scored(prompt: list[int], sequences: Sequence[Any], rewards: Sequence[float | None]) -> list[Rollout]:
    """The rollouts of a group; one without a reward is left out, since a failed judge is no zero."""
    return [
        Rollout(prompt, sequence.tokens, sequence.logprobs, reward)
        for sequence, reward in zip(sequences, rewards, strict=True)
        if reward is not None
    ]


def rewards_of(groups: Sequence[Sequence[Rollout]], shuffled: bool, rng: random.Random) -> list[list[float]]:
    """The rewards by group; shuffled, the same rewards fall on rollouts by chance, over the whole batch."""
    rewards = [rollout.reward for group in groups for rollout in group]
    if shuffled:
        rng.shuffle(rewards)
    remaining = iter(rewards)
    return [[next(remaining) for _ in group] for group in groups]


def centred(rewards_G: Sequence[float]) -> list[float]:
    """Advantages: reward minus the mean of the group. A group of equals says nothing and gives zeros."""
    mean = sum(rewards_G) / len(rewards_G)
    return [reward - mean for reward in rewards_G]


def to_datum(sdk: Sdk, rollout: Rollout, advantage: float) -> Any:
    """One rollout as `importance_sampling` takes it: targets shifted by one, zeros on prompt positions."""
    tokens = rollout.prompt + rollout.completion
    padding = [0.0] * (len(rollout.prompt) - 1)
    advantages_T = padding + [advantage] * len(rollout.completion)
    return sdk.Datum(
        model_input=sdk.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": np.array(tokens[1:], np.int64),
            "logprobs": np.array(padding + rollout.logprobs, np.float32),
            "advantages": np.array(advantages_T, np.float32),
        },
    )


def to_batch(sdk: Sdk, groups: Sequence[Sequence[Rollout]], rewards: Sequence[Sequence[float]]) -> list[Any]:
    """The datums of one step; groups whose rewards are all alike are dropped."""
    return [
        to_datum(sdk, rollout, advantage)
        for group, rewards_G in zip(groups, rewards, strict=True)
        if len(set(rewards_G)) > 1
        for rollout, advantage in zip(group, centred(rewards_G), strict=True)
    ]


def learn(sdk: Sdk, training: Training, batch: list[Any]) -> Sampler:
    """One update and the sampler of its weights: all three commands are submitted before any is awaited."""
    if not batch:
        unchanged: Sampler = training.save_weights_and_get_sampling_client().result()
        return unchanged
    gradient = training.forward_backward(batch, "importance_sampling")
    update = training.optim_step(sdk.AdamParams(learning_rate=LEARNING_RATE))
    saved = training.save_weights_and_get_sampling_client()
    gradient.result()
    update.result()
    sampler: Sampler = saved.result()
    return sampler


def train(
    sdk: Sdk,
    options: Options,
    tasks: Tasks,
    judge: Judge,
    training: Training,
    record: Record,
    show: Show,
    stack: Stack,
) -> tuple[Matches, Matches]:
    """All steps; returns the matches before and after."""
    rng, tokenizer = random.Random(options.seed), training.get_tokenizer()
    sampler = training.save_weights_and_get_sampling_client().result()
    before = evaluate(sdk, sampler, tokenizer, judge, tasks)
    ready = execution_match(sdk, sampler, tokenizer, judge, tasks.held_out, temperature=1.0)
    show.step(record.start(ready, before.held_out))
    if ready < READY:
        show.say(f"The base model is not ready: {ready:.2f} right at temperature 1, RL wants {READY:.2f}.")
    for step in range(1, options.steps + 1):
        asked = rng.sample(tasks.pool, min(GROUPS, len(tasks.pool)))
        groups = roll_out(sdk, sampler, tokenizer, judge, asked, rng)
        rewards = rewards_of(groups, options.rewards == "shuffled", rng)
        sampler = learn(sdk, training, to_batch(sdk, groups, rewards))
        rollouts = [rollout for group in groups for rollout in group]
        excluded = GROUP_SIZE * len(asked) - len(rollouts)
        if excluded > MAX_EXCLUDED * GROUP_SIZE * len(asked):
            raise JudgeError(
                f"step {step}: the judge failed on {excluded} rollouts, {len(rollouts)} are left"
            )
        reward = sum(rollout.reward for rollout in rollouts) / len(rollouts)
        match = sum(rollout.reward == Verdict.RIGHT.value for rollout in rollouts) / len(rollouts)
        heldout = (
            execution_match(sdk, sampler, tokenizer, judge, tasks.held_out)
            if step % EVALUATE_EVERY == 0
            else None
        )
        tokens = sum(len(rollout.completion) for rollout in rollouts)
        show.step(record.step(reward, match, heldout, tokens, excluded))
        stack.measure()
    record.stop()
    return before, evaluate(sdk, sampler, tokenizer, judge, tasks)


def run(options: Options) -> dict[str, Any]:
    """Prepare, train, evaluate, save; returns what stands in `result.json`."""
    sdk, experiment, record = load_sdk(options.client), prepare(options), Record(options.out)
    with (
        running_stack(options.base_url, experiment.served, options.out / "stack") as stack,
        sdk.ServiceClient(base_url=stack.url, api_key=API_KEY) as service,
        rekindle.ServiceClient(stack.url, API_KEY) as ours,  # data and rewards, which `tinker` does not have
        Show(stack.url, API_KEY, options.steps) as show,
    ):
        judge = RewardJudge(ours.rewards) if options.judge == "reward" else LoopJudge()
        tasks = experiment.tasks
        if options.data == "service":
            tasks = through_service(ours.datasets, experiment.dataset, tasks, options.cache / "databases")
        training = service.create_lora_training_client(
            experiment.base_model, rank=RANK, seed=options.seed, train_unembed=False
        ).result()
        before, after = train(sdk, options, tasks, judge, training, record, show, stack)
        download_adapter(options.client, training, stack.url, API_KEY, options.out / "adapter")
    result = {
        "seed": options.seed,
        "rewards": options.rewards,
        "questions": len(tasks.held_out),
        "before": before.held_out,
        "after": after.held_out,
        "heldout_schema": {"before": before.unseen, "after": after.unseen},
        "seconds": {"base": experiment.base_seconds, "rl": record.seconds},
        "peak_rss_bytes": stack.peak_rss_bytes,
        "tokens_per_second": record.tokens_per_second,
    }
    record.finish(result)
    show_result(show.console, result)
    return result


if __name__ == "__main__":
    try:
        run(read_options())
    except (OwnDataError, StackError, JudgeError) as error:
        sys.exit(f"text2sql: {error}")
