"""Checkpoint paths mean to us what they mean to the Tinker client."""

import pickle

import pytest
from tinker.types.checkpoint import ParsedCheckpointTinkerPath

from rekindle.types import KINDS, InvalidField, TinkerPath, checkpoint_type


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_is_read_as_the_client_reads_it(kind):
    text = f"tinker://s-1:train:0/{kind}/000020"
    path, theirs = TinkerPath.parse(text), ParsedCheckpointTinkerPath.from_tinker_path(text)
    assert str(path) == text
    assert path.run_id == theirs.training_run_id
    assert path.checkpoint_id == theirs.checkpoint_id
    assert checkpoint_type(path.kind) == theirs.checkpoint_type


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("run/weights/a", "expected tinker://<run>/<kind>/<name>"),
        ("tinker://run/weights", "expected tinker://<run>/<kind>/<name>"),
        ("tinker://run/weights/a/b", "expected tinker://<run>/<kind>/<name>"),
        ("tinker://run/final/a", "kind 'final', expected one of weights, sampler_weights, external_weights"),
        ("tinker:///weights/a", "run and name take letters, digits and . _ - and start with no dot"),
        ("tinker://../weights/a", "run and name take letters"),
        ("tinker://run/weights/..", "run and name take letters"),
        ("tinker://run/weights/a b", "run and name take letters"),
        ("tinker://run/weights/a\n", "run and name take letters"),
        (f"tinker://run/weights/{'a' * 129}", "run and name take letters"),
    ],
)
def test_a_path_of_another_form_is_refused(text, reason):
    with pytest.raises(InvalidField, match=r"^model_path: ") as caught:
        TinkerPath.parse(text, "model_path")
    assert reason in caught.value.reason


def test_an_invalid_field_survives_pickling():
    error = pickle.loads(pickle.dumps(InvalidField("data[3]", "7 rows, expected 12")))
    assert (error.field, error.reason, str(error)) == (
        "data[3]",
        "7 rows, expected 12",
        "data[3]: 7 rows, expected 12",
    )
