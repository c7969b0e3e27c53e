"""The services of a base model: one that trains, one that samples, and a job that makes the model known.

They are filled templates (`model/` of the manifests), applied and never forced: a bound of scale that somebody has
set with `kn` stays. Everything about a model is read back from the cluster; nothing is kept beside it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

from rekindle.cluster.api import KNATIVE, Api, Ref
from rekindle.cluster.apply import Applied, apply
from rekindle.cluster.errors import ClusterError
from rekindle.cluster.names import service_name, token
from rekindle.cluster.place import GATEWAY, placed
from rekindle.cluster.render import Manifest, condition, containers, render
from rekindle.types.errors import InvalidField

REGISTER, FORGET = "register", "forget"
"""Jobs of a model, by the first part of their names."""
KEPT_SECONDS = 600
"""How long a job stays to be looked at that has had a model forgotten."""
BASE_LABEL, BASE_NAME = "rekindle.dev/base", "rekindle.dev/base-model"
KIND_LABEL = "rekindle.dev/kind"
GPU = "nvidia.com/gpu"
SCALE = "autoscaling.knative.dev/"
Engine = Literal["torch", "vllm"]
Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """What a base model's services shall be. Example: ModelOptions(base="Qwen/Qwen3-8B", gpus=1, engine="vllm").

    Raises InvalidField that names the field and the limit.
    """

    base: str
    """What clients call it."""
    source: str | None = None
    """Hub id, `hf://…`, `s3://bucket/prefix` or a folder of the image; None = the name is its hub id."""
    gpus: int = 0
    """Of one replica; 0 = CPU."""
    max_runs: int = 16
    """Runs that one trainer works on at a time."""
    max_replicas: int = 1
    """Of each of the two services."""
    engine: Engine = "torch"
    """What samples."""
    dtype: Dtype | None = None
    """None = bfloat16 on GPUs, float32 without."""

    def __post_init__(self) -> None:
        for field, text in (("base", self.base), ("source", self.source or self.base)):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,199}|/[A-Za-z0-9._/+-]{1,199}", text):
                raise InvalidField(field, f"{text!r}, expected at most 200 of A-Z, a-z, 0-9 and ._/:@+-")
        for field, number, least in (("gpus", self.gpus, 0), ("max_runs", self.max_runs, 1)):
            if not least <= number <= 1000:
                raise InvalidField(field, f"{number}, expected {least} to 1000")
        if self.engine == "vllm" and not self.gpus:
            raise InvalidField("engine", "vllm, expected torch without GPUs: its image is made for CUDA")
        if not 1 <= self.max_replicas <= 1000:
            raise InvalidField("max_replicas", f"{self.max_replicas}, expected 1 to 1000")

    def values(self) -> dict[str, str]:
        """What the templates' places stand for."""
        return {
            "base": self.base,
            "token": token(self.base),
            "source": self.source or self.base,
            "engine": self.engine,
            "image": "sample-vllm" if self.engine == "vllm" else "sample",
            "device": "cuda" if self.gpus else "cpu",
            "dtype": self.dtype or ("bfloat16" if self.gpus else "float32"),
            "max_runs": str(self.max_runs),
            "max_replicas": str(self.max_replicas),
        }


def options(base: str, chosen: Mapping[str, str | int]) -> ModelOptions:
    """Of what was chosen, by field. Raises InvalidField that names the field."""
    known = {one.name: chosen[one.name] for one in fields(ModelOptions) if one.name in chosen}
    for field, kind in (("engine", Engine), ("dtype", Dtype)):
        if field in known:
            _one_of(field, str(known[field]), get_args(kind))
    return ModelOptions(base=base, **cast("dict[str, Any]", known))


def _one_of(field: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise InvalidField(field, f"{name!r}, expected {', '.join(known)}")


def render_model(
    templates: Path, options: ModelOptions, namespace: str, registry: str | None = None
) -> list[Manifest]:
    """Its objects, of a folder of templates. Raises ClusterError for a template that is wrong."""
    objects = render(templates, options.values())
    if not options.gpus and any(GPU in _limits(each) for one in objects for each in containers(one)):
        raise ClusterError("these templates are for GPUs: say how many, --gpus 1")
    for one in objects:
        if one["apiVersion"] == KNATIVE and options.gpus:
            _ask_for_gpus(one, options.gpus)
    return [placed(one, namespace, registry) for one in objects]


def _limits(container: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = container.get("resources", {}).get("limits", {})
    return found


def _ask_for_gpus(service: Manifest, gpus: int) -> None:
    for container in containers(service):
        container.setdefault("resources", {}).setdefault("limits", {})[GPU] = str(gpus)


def add(api: Api, objects: Sequence[Manifest], *, dry_run: bool = False) -> list[Applied]:
    """Apply a model's objects, all or none of them: the server tries every one before the first is changed.

    Raises FieldsHeld for a field that somebody else has set otherwise, bounds of scale excepted.
    """
    tried = [apply(api, one, force=False, dry_run=True) for one in objects]
    if dry_run:
        return tried
    for one in objects:
        if one["kind"] == "Job":  # nothing shall forget what is added now
            about = one["metadata"]
            api.delete(Ref.of(one)._replace(name=about["name"].replace(REGISTER, FORGET, 1)))
    return [apply(api, one, force=False) for one in objects]


@dataclass(frozen=True, slots=True)
class ModelService:
    """A service of a base model as it is. Example: ModelService("train-qwen-…", "train", "Qwen/Qwen3-8B", …)."""

    name: str
    kind: str
    base: str
    gpus: int
    """Of one replica."""
    concurrency: int
    """Activations of one replica: runs of a trainer."""
    min_scale: str | None
    max_scale: str | None
    engine: str | None
    """Of a sampler."""
    image: str
    ready: bool
    reason: str | None
    """Why it is not ready."""


def listed(api: Api, namespace: str) -> list[ModelService]:
    """The services of all base models, by model and kind."""
    found = [model_service(one) for one in api.all(KNATIVE, "Service", namespace, BASE_LABEL)]
    return sorted(found, key=lambda one: (one.base, one.kind))


def model_service(one: Manifest) -> ModelService:
    about, template = one["metadata"], one["spec"]["template"]
    scale = template.get("metadata", {}).get("annotations", {})
    container = template["spec"]["containers"][0]
    variables = {each["name"]: each.get("value") for each in container.get("env", [])}
    ready = condition(one, "Ready")
    return ModelService(
        name=about["name"],
        kind=about["labels"].get(KIND_LABEL, "?"),
        base=about.get("annotations", {}).get(BASE_NAME, about["labels"][BASE_LABEL]),
        gpus=int(container.get("resources", {}).get("limits", {}).get(GPU, 0)),
        concurrency=template["spec"].get("containerConcurrency", 0),
        min_scale=scale.get(f"{SCALE}min-scale"),
        max_scale=scale.get(f"{SCALE}max-scale"),
        engine=variables.get("REKINDLE_ENGINE"),
        image=container["image"],
        ready=ready.get("status") == "True",
        reason=None if ready.get("status") == "True" else ready.get("message") or ready.get("reason"),
    )


def registry_in_use(api: Api, namespace: str) -> str | None:
    """Where the installation's images come from; None if nothing is installed there."""
    gateway = api.get(Ref(KNATIVE, "Service", GATEWAY, namespace))
    return None if gateway is None else _origin(next(containers(gateway))["image"])[0]


def outdated(api: Api, namespace: str, image: str) -> list[str]:
    """Base models whose services run images of another registry or version than this one."""
    return sorted({one.base for one in listed(api, namespace) if _origin(one.image) != _origin(image)})


def _origin(image: str) -> tuple[str, str]:
    """`registry/prefix/name:tag` → registry with prefix, tag."""
    prefix, _, name = image.rpartition("/")
    return prefix, name.partition(":")[2]


def remove(api: Api, templates: Path, base: str, namespace: str) -> list[str]:
    """Remove a model's services and have the model forgotten; the names of what is removed.

    Runs and checkpoints stay, and go on once the model is added again. Raises ClusterError if there is no such model.
    """
    services = api.all(KNATIVE, "Service", namespace, f"{BASE_LABEL}={token(base)}")
    registered = Ref("batch/v1", "Job", service_name(REGISTER, base), namespace)
    job = api.get(registered)
    if not services and job is None:
        known = sorted({one.base for one in listed(api, namespace)})
        raise ClusterError(f"no base model {base!r} in {namespace}; there are: {', '.join(known) or 'none'}")
    for one in services:
        api.delete(Ref.of(one))
    apply(api, _forgetting(templates, [*services, *filter(None, [job])], base, namespace), force=True)
    api.delete(registered)  # last: as long as it is there, a removal that was cut short can be repeated
    return [one["metadata"]["name"] for one in services]


def _forgetting(templates: Path, known: list[Manifest], base: str, namespace: str) -> Manifest:
    """The job that makes a model known, turned into one that has it forgotten; with the image of what is known."""
    (job,) = (
        one for one in render_model(templates, ModelOptions(base=base), namespace) if one["kind"] == "Job"
    )
    job["metadata"]["name"] = service_name(FORGET, base)
    job["spec"]["ttlSecondsAfterFinished"] = KEPT_SECONDS
    trainer = [one for one in known if one["metadata"]["labels"].get(KIND_LABEL) in ("train", REGISTER)]
    for container in containers(job):
        container["args"] = [*container.get("args", []), "--remove"]
        for one in trainer:
            container["image"] = one["spec"]["template"]["spec"]["containers"][0]["image"]
    return job
