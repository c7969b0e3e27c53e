"""Light images hold all that their code imports: every service comes up with the packages of its pins alone."""

import json
import subprocess
import sys

from tests.images.test_image_pins import LIGHT, held
from tools.images.catalog import IMAGES, ROOT

IMPORT_WITH_PINS = """
import importlib, importlib.metadata, json, os, sys
from packaging.utils import canonicalize_name

owners = {
    top: {canonicalize_name(name) for name in names}
    for top, names in importlib.metadata.packages_distributions().items()
}

class Block:
    pins = set()

    def find_spec(self, name, path=None, target=None):
        owned = owners.get(name.partition(".")[0])
        if owned and not owned & (self.pins | {"rekindle"}):
            raise ModuleNotFoundError(f"{name} is in none of the pins", name=name)

images = json.loads(sys.argv[1])  # name, module, pins
for name in [name for name in sys.modules if name.partition(".")[0] == "packaging"]:
    del sys.modules[name]
sys.meta_path.insert(0, Block())
if shared := sys.argv[2:]:  # what all of them import, once
    Block.pins = set.intersection(*(set(pins) for _, _, pins in images))
    for module in shared:
        importlib.import_module(module)
failed = []
for name, module, pins in images:
    pid = os.fork()
    if pid == 0:
        Block.pins = set(pins)
        importlib.import_module(module)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        failed.append(name)
sys.exit(f"cannot be imported: {failed}" if failed else 0)
"""


def come_up(pins: dict[str, list[str]], *shared: str) -> subprocess.CompletedProcess[str]:
    """Import the images' modules with these pins, each in a process of its own."""
    told = json.dumps([(name, _main(IMAGES[name].module), found) for name, found in pins.items()])
    return subprocess.run(
        [sys.executable, "-c", IMPORT_WITH_PINS, told, *shared],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"},
        capture_output=True,
        text=True,
        timeout=100,
    )


def _main(module: str) -> str:
    """What `python -m` runs."""
    folder = ROOT / module.replace(".", "/")
    return f"{module}.__main__" if folder.is_dir() else module


def test_light_services_come_up_with_the_packages_of_their_pins_alone() -> None:
    pins = {name: list(held(IMAGES[name].pins)) for name in sorted(LIGHT - {"dispatcher"})}
    done = come_up(pins, "events.app", "events.serve")
    assert done.returncode == 0, done.stderr


def test_the_dispatcher_comes_up_with_either_platform() -> None:
    pins = {"dispatcher": list(held(IMAGES["dispatcher"].pins))}
    done = come_up(pins, "events.knative")
    assert done.returncode == 0, done.stderr


def test_a_package_that_is_missing_is_noticed() -> None:
    pins = {"dispatcher": [pin for pin in held(IMAGES["dispatcher"].pins) if pin != "nats-py"]}
    done = come_up(pins)
    assert done.returncode != 0 and "nats is in none of the pins" in done.stderr
