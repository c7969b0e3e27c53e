"""`task images`: makes the images by docker, buildah or podman, or without any of them from a root file system.

task images -- [NAME …] [--registry PREFIX [--push]] [--tag TAG] [--cuda] [--base IMAGE] [--engine ENGINE]
task images -- [NAME …] --rootfs DIR|TAR [--output DIR|TAR] [--wheels DIR] [--registry PREFIX] [--tag TAG] [--cuda]
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.images import content, engine, layers
from tools.images.catalog import FOR_CPUS, IMAGES, PREFIX, ROOT, Image, version
from tools.images.layout import Layout, Made, pack


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "task images --", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(IMAGES)}; all but the last, unless said"
    )
    made.add_argument(
        "--registry", default=PREFIX, metavar="PREFIX", help=f"in front of the names ({PREFIX})"
    )
    made.add_argument("--tag", default=version(), help="behind the names (%(default)s)")
    made.add_argument("--push", action="store_true", help="to the registry, when all are made")
    made.add_argument("--cuda", action="store_true", help="PyTorch for NVIDIA's GPUs rather than for CPUs")
    made.add_argument("--base", metavar="IMAGE", help="that the Dockerfiles begin with, e.g. with a digest")
    made.add_argument(
        "--engine", choices=[*engine.ENGINES, "none"], help="the first that is there, unless said"
    )
    made.add_argument("--rootfs", type=Path, metavar="DIR|TAR", help="with Python in it: no engine is needed")
    made.add_argument(
        "--output", type=Path, default=ROOT / "out" / "images", metavar="DIR|TAR", help="(out/images)"
    )
    made.add_argument(
        "--wheels", type=Path, metavar="DIR", help="to take wheels from, rather than from an index"
    )
    return made


def read(words: Sequence[str]) -> argparse.Namespace:
    """The arguments, if they go together; `images` are those that are named.

    Raises:
        SystemExit: they do not.
    """
    options = parser()
    said = options.parse_args(words)
    if unknown := [name for name in said.names if name not in IMAGES]:
        options.error(f"no image {', '.join(unknown)}; there are {', '.join(IMAGES)}")
    said.images = [IMAGES[name] for name in said.names or FOR_CPUS]
    said.engine = said.engine or ("none" if said.rootfs else engine.find())
    if wrong := _wrong(said):
        options.error(wrong)
    return said


def _wrong(said: argparse.Namespace) -> str | None:
    """What does not go together."""
    if said.push and said.registry == PREFIX:
        return f"--push needs --registry: {PREFIX} is looked up nowhere"
    if said.engine is None:
        return f"none of {', '.join(engine.ENGINES)} is on the PATH; with --rootfs none is needed"
    if said.engine != "none":
        return (
            f"--rootfs and --wheels are for --engine none, not {said.engine}"
            if said.rootfs or said.wheels
            else None
        )
    if said.rootfs is None:
        return "--engine none needs --rootfs"
    if said.push:
        return "--push takes an engine; of a layout: skopeo copy oci:out/images:NAME docker://PREFIX/NAME:TAG"
    return None


def by_engine(said: argparse.Namespace) -> None:
    """Build, and then push."""
    arguments = {"BASE": said.base} if said.base else {}
    names = {image.name: reference(said, image) for image in said.images}
    for image in said.images:
        torch = {"TORCH": "cuda"} if image.torch and said.cuda else {}
        engine.run(engine.build_command(said.engine, image, names[image.name], arguments | torch))
    for name in names.values() if said.push else ():
        engine.run([said.engine, "push", name])


def without_engine(said: argparse.Namespace) -> None:
    """All images in one layout."""
    if said.output.exists() and (said.output.is_file() or any(said.output.iterdir())):
        raise SystemExit(f"images: {said.output} is there already")
    python = content.python_of(said.rootfs)
    with tempfile.TemporaryDirectory() as scratch:
        packed = "".join(said.output.suffixes[-1:]) == ".tar"
        folder = Path(scratch) / "layout" if packed else said.output
        layout = Layout(folder)
        base = layers.write(
            content.entries(said.rootfs), layout.blobs, f"root file system {said.rootfs.name}"
        )
        tree = Path(scratch) / "app"
        content.make_app(tree)
        app = _layer(tree, layout, "the project's code")
        made = []
        for image in said.images:
            tree = Path(scratch) / image.name
            content.make_venv(image, tree, python, wheels=said.wheels, cuda=said.cuda)
            made.append(
                layout.add(
                    image, reference(said, image), (base, _layer(tree, layout, str(image.pins.name)), app)
                )
            )
            tell(made[-1])
        layout.close(made)
        if packed:
            pack(folder, said.output)


def _layer(tree: Path, layout: Layout, comment: str) -> layers.Layer:
    content.settle(tree)
    layer = layers.write(layers.of_folder(tree), layout.blobs, comment)
    shutil.rmtree(tree)
    return layer


def reference(said: argparse.Namespace, image: Image) -> str:
    """The full name."""
    return f"{said.registry.rstrip('/')}/{image.name}:{said.tag}"


def tell(made: Made) -> None:
    """Its size, as a registry keeps it."""
    parts = ", ".join(f"{layer.comment} {layer.size / 1e6:.1f}" for layer in made.layers)
    whole = sum(layer.size for layer in made.layers) / 1e6
    sys.stdout.write(f"{made.reference}  {whole:.1f} MB compressed ({parts})\n")


def main() -> None:
    """Run the command."""
    said = read(sys.argv[1:])
    (without_engine if said.engine == "none" else by_engine)(said)


if __name__ == "__main__":
    main()
