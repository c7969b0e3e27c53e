"""The simulation of field ownership keeps the rules that Kubernetes documents for server-side apply."""

import copy
from typing import Any

import pytest

from tests.cluster.ownership import Conflicts, Owners, apply, fields, schema_of, update, written


def service(containers: list[dict[str, Any]] | None = None, **scale: str) -> dict[str, Any]:
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "train"},
        "spec": {
            "template": {
                "metadata": {
                    "annotations": {f"autoscaling.knative.dev/{name}": one for name, one in scale.items()}
                },
                "spec": {"containers": containers or [{"name": "train", "image": "a"}]},
            }
        },
    }


def deployment(*containers: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "dispatcher"},
        "spec": {"template": {"spec": {"containers": list(containers)}}},
    }


def scale(one: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = one["spec"]["template"]["metadata"]["annotations"]
    return {name.rpartition("/")[2]: value for name, value in found.items()}


def test_what_was_applied_can_be_applied_again() -> None:
    owners = Owners()
    first = apply(None, service(max="1"), owners, "rekindle")
    assert apply(first, service(max="1"), owners, "rekindle") == first
    assert [one["manager"] for one in owners.managed_fields("v1")] == ["rekindle"]


def test_a_field_that_another_has_changed_is_a_conflict_that_names_both() -> None:
    owners = Owners()
    live = apply(None, service(max="1", min="0"), owners, "rekindle")
    edited = copy.deepcopy(live)
    edited["spec"]["template"]["metadata"]["annotations"]["autoscaling.knative.dev/max"] = "5"
    live = update(live, edited, owners, "kn")
    with pytest.raises(Conflicts) as caught:
        apply(live, service(max="2", min="0"), owners, "rekindle")
    assert caught.value.found == [(".spec.template.metadata.annotations.autoscaling.knative.dev/max", "kn")]
    assert scale(apply(live, service(min="1"), owners, "rekindle")) == {"max": "5", "min": "1"}


def test_force_takes_a_field_and_its_ownership() -> None:
    owners = Owners()
    live = update(None, service(max="5"), owners, "kn")
    live = apply(live, service(max="2"), owners, "rekindle", force=True)
    assert scale(live) == {"max": "2"}
    assert scale(apply(live, service(max="3"), owners, "rekindle")) == {"max": "3"}


def test_equal_values_are_shared() -> None:
    owners = Owners()
    live = update(None, service(max="5"), owners, "kn")
    live = apply(live, service(max="5"), owners, "rekindle")
    assert len(owners.managed_fields("v1")) == 2
    assert scale(apply(live, service(), owners, "rekindle")) == {"max": "5"}, "the other still has it"


def test_a_field_that_is_no_longer_applied_goes() -> None:
    owners = Owners()
    live = apply(None, service(max="5", min="1"), owners, "rekindle")
    assert scale(apply(live, service(min="1"), owners, "rekindle")) == {"min": "1"}


def test_containers_of_a_deployment_are_items_and_those_of_a_custom_resource_one_field() -> None:
    owners = Owners()
    live = apply(None, deployment({"name": "a", "image": "1"}), owners, "rekindle")
    live = update(live, deployment({"name": "a", "image": "1"}, {"name": "b", "image": "1"}), owners, "mesh")
    live = apply(live, deployment({"name": "a", "image": "2"}), owners, "rekindle")
    assert live["spec"]["template"]["spec"]["containers"] == [
        {"name": "a", "image": "2"},
        {"name": "b", "image": "1"},
    ]

    owners = Owners()
    live = apply(None, service(), owners, "rekindle")
    live = update(live, service([{"name": "train", "image": "b"}]), owners, "kn")
    with pytest.raises(Conflicts) as caught:
        apply(live, service(), owners, "rekindle")
    assert caught.value.found == [(".spec.template.spec.containers", "kn")]


def test_an_item_that_is_no_longer_applied_goes_with_all_its_fields() -> None:
    owners = Owners()
    live = apply(
        None, deployment({"name": "a", "image": "1"}, {"name": "b", "image": "1"}), owners, "rekindle"
    )
    live = apply(live, deployment({"name": "a", "image": "1"}), owners, "rekindle")
    assert live["spec"]["template"]["spec"]["containers"] == [{"name": "a", "image": "1"}]


def test_a_field_is_written_as_the_api_writes_it() -> None:
    one = deployment({"name": "a", "image": "1", "ports": [{"containerPort": 80}]})
    place = '.spec.template.spec.containers[name="a"]'
    port = f'{place}.ports[containerPort=80,protocol="TCP"]'
    found = {written(path) for path in fields(one, schema_of(one)) if path[0] == "f:spec"}
    assert found == {place, f"{place}.name", f"{place}.image", port, f"{port}.containerPort"}


def test_managed_fields_mark_items_that_are_fields_themselves() -> None:
    owners = Owners()
    apply(None, deployment({"name": "a", "image": "1"}), owners, "rekindle")
    (entry,) = owners.managed_fields("apps/v1")
    (containers,) = entry["fieldsV1"]["f:spec"]["f:template"]["f:spec"].values()
    assert containers == {'k:{"name":"a"}': {".": {}, "f:name": {}, "f:image": {}}}


def test_a_selector_is_one_field_as_its_schema_says() -> None:
    one = deployment()
    one["spec"]["selector"] = {"matchLabels": {"app": "a", "tier": "b"}}
    assert ".spec.selector" in {written(path) for path in fields(one, schema_of(one))}


def test_defaults_in_a_list_that_is_one_field_make_equal_words_a_conflict() -> None:
    """The webhook adds to containers what nobody has said: to say the same as another is then to take it away."""
    owners = Owners()
    live = apply(None, service([{"name": "train", "image": "a"}]), owners, "rekindle")
    live = update(live, service([{"name": "train", "image": "b", "resources": {}}]), owners, "kn")
    with pytest.raises(Conflicts) as caught:
        apply(live, service([{"name": "train", "image": "b"}]), owners, "rekindle")
    assert caught.value.found == [(".spec.template.spec.containers", "kn")]


def test_what_a_manager_removes_from_an_object_nobody_has_any_more() -> None:
    owners = Owners()
    live = apply(None, service(max="5", min="1"), owners, "rekindle")
    live = update(live, service(min="1"), owners, "kn")
    assert scale(apply(live, service(min="1"), owners, "rekindle")) == {"min": "1"}
    assert scale(apply(live, service(max="5", min="1"), owners, "rekindle")) == {"max": "5", "min": "1"}


def test_an_item_that_nobody_else_has_goes_with_what_others_have_added_to_it() -> None:
    owners = Owners()
    two = ({"name": "a", "image": "1"}, {"name": "b", "image": "1"})
    live = apply(None, deployment(*two), owners, "rekindle")
    edited = copy.deepcopy(live)
    edited["spec"]["template"]["spec"]["containers"][1]["env"] = [{"name": "X", "value": "1"}]
    live = update(live, edited, owners, "mesh")
    live = apply(live, deployment(two[0]), owners, "rekindle")
    assert live["spec"]["template"]["spec"]["containers"] == [two[0]]


def test_a_status_belongs_to_its_own_endpoint() -> None:
    owners = Owners()
    live = apply(None, service(max="1"), owners, "rekindle")
    live = update(live, {**live, "status": {"observedGeneration": 1}}, owners, "controller", "status")
    entries = {one["manager"]: one for one in owners.managed_fields("v1")}
    assert entries["controller"]["fieldsV1"] == {"f:status": {".": {}, "f:observedGeneration": {}}}
    assert entries["controller"]["subresource"] == "status"
    live = update(live, service(max="2"), owners, "kn")
    assert live["status"] == {"observedGeneration": 1}
