"""Layers to images in one OCI image layout: a folder, or a tar file of it.

Images share the blobs of the layers that they have in common. Beside the specification's `index.json` stands the
`manifest.json` of older engines, so that `docker load` takes the tar file, too. The specifications: image-layout,
manifest and config of https://github.com/opencontainers/image-spec, version 1.1.
"""

import hashlib
import json
import platform
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.images import layers
from tools.images.catalog import APP, ENVIRONMENT, USER, Image, labels
from tools.images.layers import Layer

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
"""As Python calls them → as images do."""
EPOCH = "1970-01-01T00:00:00Z"
"""When everything was made: the same content is the same image."""
TYPE = "application/vnd.oci.image"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Made:
    """One image of a layout."""

    image: Image
    reference: str
    """Its full name with the tag."""
    layers: tuple[Layer, ...]
    manifest: Json
    """The descriptor that the index has."""
    config: str
    """Digest."""


class Layout:
    """A layout that grows in the folder `path`, which must be new or empty."""

    def __init__(self, path: Path) -> None:
        self.blobs = path / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)
        self._path = path

    def add(self, image: Image, reference: str, parts: tuple[Layer, ...]) -> Made:
        """Write configuration and manifest of an image of these layers, lowest first."""
        config = self._write(_config(image, reference.rpartition(":")[2], parts))
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{TYPE}.manifest.v1+json",
            "config": {"mediaType": f"{TYPE}.config.v1+json"} | config,
            "layers": [
                {"mediaType": f"{TYPE}.layer.v1.tar+gzip", "digest": one.digest, "size": one.size}
                for one in parts
            ],
        }
        names = {
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": image.name,
        }
        descriptor = {"mediaType": manifest["mediaType"], **self._write(manifest), "annotations": names}
        return Made(image, reference, parts, descriptor, config["digest"])

    def close(self, made: list[Made]) -> None:
        """Write what says which images there are."""
        index = {
            "schemaVersion": 2,
            "mediaType": f"{TYPE}.index.v1+json",
            "manifests": [one.manifest for one in made],
        }
        older = [
            {
                "Config": _place(one.config),
                "RepoTags": [one.reference],
                "Layers": [_place(layer.digest) for layer in one.layers],
            }
            for one in made
        ]
        for name, content in (("index", index), ("manifest", older)):
            (self._path / f"{name}.json").write_bytes(_bytes(content))
        (self._path / "oci-layout").write_bytes(_bytes({"imageLayoutVersion": "1.0.0"}))

    def _write(self, content: Json) -> Json:
        """Store a blob; what points to it."""
        data = _bytes(content)
        digest = hashlib.sha256(data).hexdigest()
        (self.blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}


def pack(folder: Path, target: Path) -> None:
    """The layout in `folder` as a tar file."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for member, content in layers.of_folder(folder):
            tar.addfile(member, content)


def _config(image: Image, tag: str, parts: tuple[Layer, ...]) -> Json:
    settings: Json = {
        "User": USER,
        "Env": [f"{key}={value}" for key, value in ENVIRONMENT.items()],
        "Entrypoint": image.entrypoint,
        "WorkingDir": APP,
        "Labels": labels(image, tag),
    }
    settings["ExposedPorts"] = {f"{image.port}/tcp": {}}
    return {
        "created": EPOCH,
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in parts]},
        "history": [{"created": EPOCH, "created_by": one.comment} for one in parts],
    }


def _place(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _bytes(content: Any) -> bytes:
    return json.dumps(content, indent=2, sort_keys=True).encode()
