"""Every Knative Service is what the published CRD of Serving 1.23 describes, and holds no field that it does not."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.knative import knative_sets as sets
from tests.knative.knative_rules import is_knative

CRD = Path(__file__).parents[1] / "schemas" / "knative-serving-1.23.0-service.yaml"
SERVICES = [(name, one) for name, one in sets.every() if is_knative(one)]


def strict(schema: Any) -> Any:
    """The schema, with objects closed: the API server drops unknown fields in silence."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


@pytest.fixture(scope="module")
def published() -> Draft202012Validator:
    versions = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    schema = next(one["schema"]["openAPIV3Schema"] for one in versions if one["name"] == "v1")
    schema["properties"]["metadata"]["x-kubernetes-preserve-unknown-fields"] = True
    return Draft202012Validator(strict(schema))


@pytest.mark.parametrize(("name", "one"), SERVICES, ids=[name for name, _ in SERVICES])
def test_a_service_is_as_published(name: str, one: dict[str, Any], published: Draft202012Validator) -> None:
    assert [f"{error.json_path}: {error.message}" for error in published.iter_errors(one)] == []


@pytest.mark.parametrize(
    "path", ["spec.template.spec.containerConcurency", "spec.templat", "spec.template.spec.lifecycle"]
)
def test_a_field_that_is_not_published_is_noticed(path: str, published: Draft202012Validator) -> None:
    wrong = copy.deepcopy(SERVICES[0][1])
    *parents, last = path.split(".")
    place = wrong
    for parent in parents:
        place = place[parent]
    place[last] = 1
    assert list(published.iter_errors(wrong))
