"""The part of kustomize that the manifests use, and what an installation replaces in them."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from rekindle.cluster import manifests
from rekindle.cluster.errors import ClusterError
from rekindle.cluster.place import installation, placed
from rekindle.cluster.render import Manifest, containers, merge, render, to_yaml

ROOT = Path(__file__).resolve().parents[2]


def deployment(name: str = "a", image: str = "dev.local/rekindle/a:1") -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"tier": name}},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "main", "image": image}]}}},
    }


def folder(path: Path, objects: list[Manifest], files: dict[str, Any] | None = None, **spec: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "objects.yaml").write_text(to_yaml(objects))
    for name, content in (files or {}).items():
        (path / name).write_text(yaml.safe_dump(content))
    about = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["objects.yaml"],
    }
    (path / "kustomization.yaml").write_text(yaml.safe_dump({**about, **spec}))
    return path


def test_resources_are_files_and_other_kustomizations(tmp_path: Path) -> None:
    folder(tmp_path / "base", [deployment("a"), deployment("b")])
    top = folder(tmp_path / "top", [deployment("c")], resources=["../base", "objects.yaml"])
    assert [one["metadata"]["name"] for one in render(top)] == ["a", "b", "c"]


def test_a_namespace_is_for_all_but_what_belongs_to_the_cluster(tmp_path: Path) -> None:
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "rekindle"}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "r"}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "r"},
            "subjects": [
                {"kind": "ServiceAccount", "name": "r", "namespace": "rekindle"},
                {"kind": "User", "name": "u"},
            ],
        },
    ]
    space, role, binding = render(folder(tmp_path, objects, namespace="mine"))
    assert space["metadata"]["name"] == "mine" and "namespace" not in role["metadata"]
    assert binding["metadata"]["namespace"] == "mine" and binding["subjects"][0]["namespace"] == "mine"
    assert "namespace" not in binding["subjects"][1]


def test_labels_reach_templates_only_if_asked(tmp_path: Path) -> None:
    labels = [{"pairs": {"a": "1"}}, {"pairs": {"b": "2"}, "includeTemplates": True}]
    (one,) = render(folder(tmp_path, [deployment()], labels=labels))
    assert one["metadata"]["labels"] == {"tier": "a", "a": "1", "b": "2"}
    assert one["spec"]["template"]["metadata"]["labels"] == {"b": "2"}


@pytest.mark.parametrize(
    ("image", "spec", "expected"),
    [
        ("x/a:1", {"name": "x/a", "newTag": "2"}, "x/a:2"),
        ("x/a:1", {"name": "x/a", "newName": "y/b"}, "y/b:1"),
        ("x/a", {"name": "x/a", "newName": "y/b"}, "y/b"),
        ("x/ab:1", {"name": "x/a", "newTag": "2"}, "x/ab:1"),
    ],
)
def test_an_image_has_another_name_or_tag(
    tmp_path: Path, image: str, spec: dict[str, str], expected: str
) -> None:
    (one,) = render(folder(tmp_path, [deployment(image=image)], images=[spec]))
    assert [each["image"] for each in containers(one)] == [expected]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ({"kind": "Deployment"}, [3, 3, 3]),
        ({"kind": "Deployment", "name": "a.*"}, [3, 3, 1]),
        ({"group": "apps", "version": "v1", "name": "b"}, [1, 1, 3]),
        ({"labelSelector": "tier=ab"}, [1, 3, 1]),
    ],
)
def test_a_json_patch_is_for_its_target(tmp_path: Path, target: dict[str, str], expected: list[int]) -> None:
    patch = {"target": target, "patch": "[{op: replace, path: /spec/replicas, value: 3}]"}
    found = render(folder(tmp_path, [deployment("a"), deployment("ab"), deployment("b")], patches=[patch]))
    assert [one["spec"]["replicas"] for one in found] == expected


def test_a_strategic_patch_is_for_the_object_that_it_names(tmp_path: Path) -> None:
    patch = deployment("b", image="other:2") | {
        "spec": {"replicas": None, "template": {"spec": {"nodeName": "n"}}}
    }
    del patch["metadata"]["labels"]
    a, b = render(
        folder(
            tmp_path,
            [deployment("a"), deployment("b")],
            {"patch.yaml": patch},
            patches=[{"path": "patch.yaml"}],
        )
    )
    assert a == deployment("a") and "replicas" not in b["spec"] and b["metadata"]["labels"] == {"tier": "b"}
    assert b["spec"]["template"]["spec"] == {**deployment()["spec"]["template"]["spec"], "nodeName": "n"}


def test_a_patch_takes_objects_out(tmp_path: Path) -> None:
    patch = {"patch": "{$patch: delete, apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}"}
    (one,) = render(folder(tmp_path, [deployment("a"), deployment("ab")], patches=[patch]))
    assert one == deployment("ab")


def test_lists_of_named_items_merge_by_name_and_others_are_replaced() -> None:
    one = {"env": [{"name": "a", "value": "1"}, {"name": "b", "value": "2"}], "args": ["x"]}
    patch = {
        "env": [{"name": "b", "value": "3"}, {"name": "a", "$patch": "delete"}, {"name": "c"}],
        "args": ["y"],
    }
    assert merge(one, patch) == {"env": [{"name": "b", "value": "3"}, {"name": "c"}], "args": ["y"]}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"configMapGenerator": []}, "configMapGenerator"),
        ({"patches": [{"patch": "[]", "options": {}}]}, "options"),
        ({"patches": [{"patch": "[]", "target": {"annotationSelector": "x"}}]}, "annotationSelector"),
        ({"patches": [{"patch": "[]", "target": {"name": "nobody"}}]}, "nobody"),
        (
            {"patches": [{"patch": "[{op: test, path: /spec/x, value: 1}]", "target": {"kind": ".*"}}]},
            "Deployment.apps a",
        ),
        ({"labels": [{"pairs": {}, "includeSelectors": True}]}, "includeSelectors"),
        ({"resources": ["nowhere.yaml"]}, "nowhere.yaml"),
    ],
)
def test_what_is_not_understood_is_an_error_that_names_it(
    tmp_path: Path, spec: dict[str, Any], said: str
) -> None:
    with pytest.raises(ClusterError, match=said):
        render(folder(tmp_path, [deployment()], **spec))


def test_a_place_that_nobody_fills_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"objects.yaml: nobody knows the place \$\{base\}"):
        render(folder(tmp_path, [deployment(name="${base}")]), {"other": "x"})


# ---- An installation ----


def test_the_namespace_is_replaced_wherever_it_is_named() -> None:
    one = deployment()
    one["metadata"]["namespace"] = "rekindle"
    one["spec"]["url"] = "nats://nats.rekindle.svc.cluster.local:4222"
    one["spec"]["from"] = [{"matchLabels": {"kubernetes.io/metadata.name": "rekindle"}}]
    one["spec"]["system"] = [{"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}]
    found = placed(one, "mine", None)
    assert found["metadata"]["namespace"] == "mine"
    assert found["spec"]["url"] == "nats://nats.mine.svc.cluster.local:4222"
    assert found["spec"]["from"] == [{"matchLabels": {"kubernetes.io/metadata.name": "mine"}}]
    assert found["spec"]["system"] == one["spec"]["system"]


def test_the_registry_takes_the_place_of_the_images_prefix_alone() -> None:
    found = [
        placed(deployment(image=image), "rekindle", "r.example/x/")
        for image in ("dev.local/rekindle/a:1", "nats:2")
    ]
    assert [each["image"] for one in found for each in containers(one)] == ["r.example/x/a:1", "nats:2"]


@pytest.mark.parametrize("overlay", ["base", "gpu", "ha", str(manifests.folder() / "overlays" / "ha")])
def test_every_overlay_renders_for_any_namespace(overlay: str) -> None:
    found = installation(manifests.overlay(overlay), "mine", "r.example")
    assert {one["metadata"].get("namespace", "mine") for one in found} == {"mine"}
    text = to_yaml(found)
    assert "dev.local" not in text and ".rekindle.svc" not in text and "namespace: rekindle" not in text


def test_a_setting_that_changes_makes_the_pods_anew_that_read_it(tmp_path: Path) -> None:
    """And no other ones: a pod reads its ConfigMaps when it starts."""
    base = manifests.folder() / "base"
    patch = "- op: replace\n  path: /data/nats.conf\n  value: x"
    target = {"kind": "ConfigMap", "name": "nats"}
    spec = {"resources": [str(base)], "patches": [{"target": target, "patch": patch}]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(spec))
    old, new = installation(base), installation(tmp_path)
    changed = {two["metadata"]["name"] for one, two in zip(old, new, strict=True) if one != two}
    kinds = {two["kind"] for one, two in zip(old, new, strict=True) if one != two}
    assert changed == {"nats"} and kinds == {"ConfigMap", "StatefulSet"}
    assert len({marks(one) for one in old}) == 3, "of NATS, of the services, and of what reads none"


def marks(one: dict[str, Any]) -> str | None:
    template = (one.get("spec") or {}).get("template") or {}
    found: str | None = template.get("metadata", {}).get("annotations", {}).get("rekindle.dev/settings")
    return found


def test_the_wheel_brings_the_manifests_to_where_they_are_looked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    found = {ROOT / source: manifests.PACKAGE.parent / target for source, target in included.items()}
    assert found[ROOT / "knative"] == manifests.PLACES[0] and manifests.PLACES[1] == ROOT / "knative"
