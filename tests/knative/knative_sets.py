"""The manifests as tests see them: rendered as `rekindle deploy` and `rekindle models add` render them."""

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

from rekindle.cluster.models import ModelOptions
from rekindle.cluster.render import render
from tests.knative.knative_schema import Manifest

ROOT = Path(__file__).resolve().parents[2]
KNATIVE = ROOT / "knative"
OVERLAYS = KNATIVE / "overlays"
BASE = "Qwen/Qwen3-0.6B"
MAX_RUNS = 16
CPU = ModelOptions(base=BASE, source=f"hf://{BASE}", max_runs=MAX_RUNS, max_replicas=2)
GPU = replace(CPU, gpus=1, engine="vllm")
SETS = {
    "base": (KNATIVE / "base", None),
    "model": (KNATIVE / "model", CPU.values()),
    "gpu": (OVERLAYS / "gpu", None),
    "gpu model": (OVERLAYS / "gpu" / "model", GPU.values()),
    "ha": (OVERLAYS / "ha", None),
}
"""By name: a kustomization, and what stands for the places in it."""


@cache
def _rendered(name: str) -> list[Manifest]:
    return render(*SETS[name])


def objects(name: str) -> list[Manifest]:
    """Those of one set; the caller's own."""
    return copy.deepcopy(_rendered(name))


def every() -> list[tuple[str, Manifest]]:
    """Of all sets, each with the set's name and its own: for `pytest.mark.parametrize`."""
    return [
        (f"{name}: {one['kind']} {one['metadata']['name']}", one) for name in SETS for one in objects(name)
    ]


def one(name: str, kind: str, called: str) -> Manifest:
    """A certain object of a set. Raises StopIteration."""
    return next(
        each
        for each in objects(name)
        if (each["kind"], each["metadata"]["name"].split("-qwen")[0]) == (kind, called)
    )
