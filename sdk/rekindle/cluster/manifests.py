"""Where the manifests are: beside this module in a wheel, at the repository's root in a checkout."""

from pathlib import Path

from rekindle.cluster.errors import ClusterError

PACKAGE = Path(__file__).resolve().parent.parent
PLACES = (PACKAGE / "manifests", PACKAGE.parent.parent / "knative")
"""Of a wheel, of a checkout."""


def folder() -> Path:
    """The folder that holds `base/`, `model/` and `overlays/`. Raises ClusterError if there is none."""
    for place in PLACES:
        if (place / "base" / "kustomization.yaml").is_file():
            return place
    raise ClusterError(f"no manifests: neither {PLACES[0]} nor {PLACES[1]} holds base/kustomization.yaml")


def overlay(name: str) -> Path:
    """The folder of `base`, of an overlay that comes with it, or one of one's own. Raises ClusterError."""
    known = {one.parent.name: one.parent for one in folder().glob("overlays/*/kustomization.yaml")}
    found = {"base": folder() / "base", **known}.get(name, Path(name))
    if not (found / "kustomization.yaml").is_file():
        names = ", ".join(["base", *sorted(known)])
        raise ClusterError(f"overlay {name!r}: expected {names} or a folder with a kustomization.yaml")
    return found


def templates(name: str) -> Path:
    """The folder of a base model's templates in an overlay: those of the base, unless it has `model/` of its own."""
    own = overlay(name) / "model"
    return own if (own / "kustomization.yaml").is_file() else folder() / "model"
