"""A spec says everything with few words, and every mistake in it names its field."""

import json
import subprocess
import sys

import pytest

from rekindle.types import InvalidField
from rekindle.types.rl import RlRunSpec, TriggerSpec, fill_event, fill_row, read_yaml, template_columns

SMALL = """
base_model: tiny
dataset: {name: sums}
prompt: "{question} ="
grader: {type: numeric, params: {column: answer}}
steps: 10
"""


def changed(**changes: object) -> dict[str, object]:
    return {**read_yaml(SMALL), **changes}


def test_a_few_lines_are_a_spec_and_the_rest_are_defaults():
    spec = RlRunSpec.from_yaml(SMALL)
    assert (spec.algorithm.type, spec.groups, spec.group_size, spec.max_staleness) == ("grpo", 8, 8, 1)
    assert spec.dataset.version == "latest" and spec.checkpoints is not None and spec.evaluation is None
    assert spec.columns() == ("question", "answer")


def test_a_spec_survives_json_and_yaml():
    spec = RlRunSpec.of(
        changed(
            algorithm={"type": "dapo", "clip_high": 0.3},
            optimizer={"learning_rate": "1e-4", "schedule": "cosine"},
            evaluation={"split": "test"},
            checkpoints=None,
            sampling={"stop": ["\n"], "max_tokens": 5},
        )
    )
    assert RlRunSpec.model_validate_json(spec.model_dump_json()) == spec
    assert RlRunSpec.from_yaml(spec.model_dump_json()) == spec


def test_numbers_that_yaml_reads_as_texts_are_numbers():
    assert RlRunSpec.from_yaml(SMALL + "optimizer: {learning_rate: 1e-5}").optimizer.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"stepz": 3}, "stepz"),
        ({"grader": None}, "grader"),
        ({"steps": None}, "steps"),
        ({"steps": 0}, "steps"),
        ({"epochs": 10**30}, "epochs"),
        ({"stop": {"minutes": 1e12}}, "stop.minutes"),
        ({"groups": 0}, "groups"),
        ({"group_size": 1}, "group_size"),
        ({"checkpoint": "tinker://a:train:0/weights/x"}, "base_model"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "{question"}, "prompt"),
        ({"messages": [{"role": "user", "content": "}"}], "prompt": None}, "messages[0].content"),
        ({"dataset": {"name": "../x"}}, "dataset.name"),
        ({"dataset": {"name": "x", "version": 0}}, "dataset.version"),
        ({"algorithm": {"type": "magic"}}, "algorithm"),
        ({"algorithm": {"type": "reinforce", "decay": 1}}, "algorithm.reinforce.decay"),
        ({"sampling": {"temperature": 0}}, "sampling.temperature"),
        ({"sampling": {"top_k": 0}}, "sampling.top_k"),
        ({"optimizer": {"learning_rate": 0}}, "optimizer.learning_rate"),
        ({"optimizer": {"warmup_steps": 11}}, "optimizer.warmup_steps"),
        ({"evaluation": {}}, "evaluation.split"),
        ({"evaluation": {"split": "a", "dataset": {"name": "b"}}}, "evaluation.split"),
        ({"lora": {"train_attn": False, "train_mlp": False, "train_unembed": False}}, "lora.train_attn"),
        ({"stop": {"evaluation_at_least": 1}}, "stop.evaluation_at_least"),
        ({"kl": {"coefficient": float("nan")}}, "kl.coefficient"),
    ],
)
def test_a_mistake_names_its_field(changes: dict[str, object], field: str):
    with pytest.raises(InvalidField) as mistake:
        RlRunSpec.of(changed(**changes))
    assert mistake.value.field.startswith(field)


@pytest.mark.parametrize(
    "text", ["a: [", "a: &x [1]\nb: *x", "[" * 20_000, "!!python/object/apply:os.system [ls]", "x" * 300_000]
)
def test_a_text_that_is_no_plain_yaml_is_refused(text: str):
    with pytest.raises(InvalidField, match=r"^spec: "):
        RlRunSpec.from_yaml(text)


@pytest.mark.parametrize("text", ["", "just words", "- 1"])
def test_yaml_that_is_no_spec_is_refused(text: str):
    with pytest.raises(InvalidField):
        RlRunSpec.from_yaml(text)


def test_a_group_of_one_is_enough_where_a_running_mean_is_the_baseline():
    assert RlRunSpec.of(changed(group_size=1, algorithm={"type": "reinforce"})).group_size == 1


def test_the_schema_is_json_and_describes_every_field_of_the_spec():
    schema = json.loads(json.dumps(RlRunSpec.model_json_schema()))
    assert set(schema["properties"]) == set(RlRunSpec.model_fields)


def test_prompts_are_filled_once_and_braces_can_be_written():
    assert template_columns("{a}{{b}}{c d}{a}") == ("a", "c d")
    row = {"a": "{b}", "b": "no", "c": [1, "ä"]}
    assert fill_row("{{x}} {a} {c}", row) == '{x} {b} [1, "ä"]'


def test_a_column_that_a_row_lacks_is_named():
    with pytest.raises(InvalidField, match=r"row\.a: missing or null"):
        fill_row("{a}", {"a": None})


def test_a_field_of_an_event_keeps_its_type_where_it_stands_alone():
    event = {"name": "sql/${event.version}", "version": 3, "how": {"op": "upload"}}
    template = {
        "dataset": {"name": "${event.name}", "version": "${event.version}"},
        "tags": ["${event.how.op}-${event.version}"],
    }
    assert fill_event(template, event) == {
        "dataset": {"name": "sql/${event.version}", "version": 3},
        "tags": ["upload-3"],
    }
    with pytest.raises(InvalidField, match=r"start\.x\[0\]: the event has no field 'size'"):
        fill_event({"x": ["${event.size}"]}, event)


def trigger(**changes: object) -> TriggerSpec:
    start = changed(dataset={"name": "${event.name}", "version": "${event.version}"})
    return TriggerSpec.model_validate({"name": "t", "on": "dataset.uploaded", "start": start, **changes})


def test_a_trigger_starts_a_run_on_the_dataset_of_the_event():
    spec = trigger().spec_for({"name": "sums", "version": 4})
    assert (spec.dataset.name, spec.dataset.version) == ("sums", 4)


def test_what_an_event_says_is_checked_like_what_a_person_says():
    with pytest.raises(InvalidField, match=r"start\.dataset\.name: "):
        trigger().spec_for({"name": "../../etc", "version": 4})


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ({}, True),
        ({"name": "sql/*"}, True),
        ({"name": "sql"}, False),
        ({"version": 2}, True),
        ({"version": "2"}, False),
        ({"version": True}, False),
        ({"how.op": "up*"}, True),
        ({"how.op.x": "up*"}, False),
        ({"name": "sql/*", "rows": 3}, False),
    ],
)
def test_a_trigger_fits_by_all_of_its_fields(match: dict[str, object], fits: bool):
    assert trigger(match=match).fits({"name": "sql/train", "version": 2, "how": {"op": "upload"}}) is fits


@pytest.mark.parametrize(
    "changes",
    [
        {"webhook": "https://hooks.example/x"},
        {"start": None},
        {"start": None, "webhook": "ftp://x.example"},
        {"on": "dataset"},
        {"name": "Ü"},
        {"start": {"base_model": "x"}},
        {"start": changed(stepz=3, dataset={"name": "${event.name}"})},
        {"start": changed(groups="many", dataset={"name": "${event.name}"})},
    ],
)
def test_a_trigger_that_could_never_work_is_refused(changes: dict[str, object]):
    with pytest.raises(ValueError):
        trigger(**changes)


def test_only_who_reads_yaml_imports_it():
    code = "import sys, rekindle.types.rl; assert 'yaml' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
