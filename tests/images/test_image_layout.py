"""Images made without an engine: a valid OCI layout, the same each time, whose layers unpack to the expected tree."""

import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.images import __main__ as command
from tools.images import catalog, content, layers

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
PACKAGES = f"opt/venv/lib/{PYTHON}/site-packages"
REGISTRY = "registry.example.com/rekindle"


def make_rootfs(folder: Path) -> Path:
    for name, text in {
        "etc/passwd": "root:x:0:0::/:/bin/sh\n",
        f"usr/bin/{PYTHON}": "an interpreter",
    }.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    (folder / "bin").symlink_to("usr/bin")
    (folder / f"usr/bin/{PYTHON}").chmod(0o755)
    os.link(folder / f"usr/bin/{PYTHON}", folder / "usr/bin/zlink")
    os.utime(folder / "etc/passwd", (1_700_000_000, 1_700_000_000))
    return folder


def make_wheel(folder: Path, name: str, version: str) -> None:
    """One module and one script."""
    about = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": f"[console_scripts]\n{name} = {name}:VERSION\n",
    }
    files[f"{about}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny project with two images, wheels for them, and a root file system."""
    place = tmp_path_factory.mktemp("images")
    for source in catalog.SOURCES:
        (place / "repo" / source).mkdir(parents=True)
        (place / "repo" / source / "module.py").write_text("ANSWERS = {'a', 'b', 'c'}\n")
    (place / "repo/services/Dockerfile").write_text("FROM nothing\n")
    (place / "pins").mkdir()
    (place / "pins/reward.txt").write_text("# made\nalpha==1.0\nbeta==2.0\n")
    (place / "pins/dispatcher.txt").write_text("alpha==1.0\n")
    (place / "wheels").mkdir()
    make_wheel(place / "wheels", "alpha", "1.0")
    make_wheel(place / "wheels", "beta", "2.0")
    make_rootfs(place / "rootfs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "PINS", place / "pins")
        patch.setattr(content, "ROOT", place / "repo")
        yield place


def make(place: Path, output: str, *names: str) -> Path:
    """Run the command; the umask, which is a person's own, must not matter."""
    words = [
        *names,
        f"--rootfs={place / 'rootfs'}",
        f"--wheels={place / 'wheels'}",
        f"--output={place / output}",
    ]
    command.without_engine(command.read([*words, f"--registry={REGISTRY}", "--tag=1.2"]))
    return place / output


@pytest.fixture(scope="module")
def layout(place: Path) -> Path:
    return make(place, "layout", "reward", "dispatcher")


def descriptors(layout: Path) -> dict[str, dict[str, Any]]:
    """By name of the image: what the index has of it."""
    index = json.loads((layout / "index.json").read_text())
    assert index["schemaVersion"] == 2
    return {one["annotations"]["org.opencontainers.image.ref.name"]: one for one in index["manifests"]}


def blob(layout: Path, descriptor: dict[str, Any]) -> bytes:
    """What a descriptor points to, which must be what it says."""
    algorithm, _, digest = descriptor["digest"].partition(":")
    data = (layout / "blobs" / algorithm / digest).read_bytes()
    assert (len(data), hashlib.new(algorithm, data).hexdigest()) == (descriptor["size"], digest)
    return data


def read(layout: Path, name: str) -> tuple[dict[str, Any], dict[str, Any], list[bytes]]:
    """Manifest, configuration and unpacked layers of an image."""
    manifest = json.loads(blob(layout, descriptors(layout)[name]))
    config = json.loads(blob(layout, manifest["config"]))
    return manifest, config, [gzip.decompress(blob(layout, one)) for one in manifest["layers"]]


@pytest.mark.parametrize("name", ["reward", "dispatcher"])
def test_every_digest_and_size_is_that_of_the_blob(layout: Path, name: str) -> None:
    manifest, config, unpacked = read(layout, name)
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in unpacked]
    assert len(config["history"]) == len(unpacked) == 3
    assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    assert {one["mediaType"] for one in manifest["layers"]} == {"application/vnd.oci.image.layer.v1.tar+gzip"}


def test_no_blob_is_left_over_and_common_layers_are_shared(layout: Path) -> None:
    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    found = set()
    bases = []
    for name, descriptor in descriptors(layout).items():
        manifest, _, _ = read(layout, name)
        bases.append([manifest["layers"][number]["digest"] for number in (0, 2)])
        found |= {one["digest"] for one in (descriptor, manifest["config"], *manifest["layers"])}
    assert {f"sha256:{path.name}" for path in (layout / "blobs/sha256").iterdir()} == found
    assert bases[0] == bases[1]


def test_the_configuration_is_that_of_the_catalogue(layout: Path) -> None:
    _, config, _ = read(layout, "reward")
    assert (config["os"], config["config"]["User"], config["config"]["WorkingDir"]) == (
        "linux",
        "65532:65532",
        "/app",
    )
    assert config["config"]["Entrypoint"] == ["/opt/venv/bin/python", "-m", "services.reward.app"]
    assert config["config"]["ExposedPorts"] == {"8080/tcp": {}}
    assert "PYTHONPATH=/app:/app/sdk" in config["config"]["Env"]
    assert config["config"]["Labels"]["org.opencontainers.image.version"] == "1.2"
    _, other, _ = read(layout, "dispatcher")
    assert other["config"]["ExposedPorts"] == {"9464/tcp": {}}, "to be scraped"


def test_the_layers_unpack_to_the_tree(layout: Path, tmp_path: Path) -> None:
    _, _, unpacked = read(layout, "reward")
    for data in unpacked:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            tar.extractall(tmp_path, filter="tar")
    assert (tmp_path / "opt/venv/bin/python").readlink() == Path(f"/usr/bin/{PYTHON}")
    assert (tmp_path / "opt/venv/bin/python3").readlink() == Path("python")
    assert "home = /usr/bin\n" in (tmp_path / "opt/venv/pyvenv.cfg").read_text()
    assert (tmp_path / PACKAGES / "beta.py").read_text() == "VERSION = '2.0'\n"
    assert not (tmp_path / PACKAGES / "bin").exists()
    assert (tmp_path / "bin" / PYTHON).read_text() == "an interpreter"
    assert (tmp_path / "usr/bin/zlink").stat().st_ino == (tmp_path / "usr/bin" / PYTHON).stat().st_ino
    for source in catalog.SOURCES:
        assert (tmp_path / "app" / source / "module.py").exists()
    assert not (tmp_path / "app/services/Dockerfile").exists()


def test_a_light_image_holds_its_own_pins_only(layout: Path) -> None:
    names = {name: members(read(layout, name)[2][1]) for name in ("reward", "dispatcher")}
    assert f"{PACKAGES}/beta.py" in names["reward"] and f"{PACKAGES}/beta.py" not in names["dispatcher"]


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {one.name: one for one in tar}


def test_ours_belongs_to_root_and_has_no_times(layout: Path) -> None:
    base, *ours = (members(data) for data in read(layout, "reward")[2])
    assert base["etc/passwd"].mtime == 1_700_000_000, "bytecode of its own may be valid for this time only"
    for one in (one for layer in ours for one in layer.values()):
        assert (one.uid, one.gid, one.uname, one.gname, one.mtime) == (0, 0, "", "", 0)
        assert one.issym() or one.mode == (0o755 if one.isdir() else 0o644)
    names = [name for layer in (base, *ours) for name in layer]
    assert not [name for name in names if Path(name).name.startswith(".wh.")]
    assert all(list(layer) == sorted(layer) for layer in (base, *ours))


def test_bytecode_is_there_and_needs_no_comparison(layout: Path, tmp_path: Path) -> None:
    _, _, unpacked = read(layout, "reward")
    with tarfile.open(fileobj=io.BytesIO(unpacked[2])) as tar:
        (name,) = (name for name in tar.getnames() if name.startswith("app/events/__pycache__/module."))
        made = tar.extractfile(name)
        assert made is not None
        code = made.read()
    assert int.from_bytes(code[4:8], "little") == 0b01, "unchecked, by hash: PEP 552"
    assert b"/app/events/module.py" in code and str(tmp_path.parent).encode() not in code


def test_the_same_content_makes_the_same_image(place: Path, layout: Path, tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        packed = make(place, "again.tar", "dispatcher")
    finally:
        os.umask(mask)
    with tarfile.open(packed) as tar:
        tar.extractall(tmp_path, filter="data")
    again, first = files(tmp_path / "blobs"), files(layout / "blobs")
    assert len(again) == 5 and again.items() <= first.items()
    assert descriptors(tmp_path)["dispatcher"] == descriptors(layout)["dispatcher"]


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_older_engines_find_what_they_load(layout: Path) -> None:
    for said in json.loads((layout / "manifest.json").read_text()):
        (name,) = said["RepoTags"]
        manifest, _, _ = read(layout, name.removeprefix(f"{REGISTRY}/").removesuffix(":1.2"))
        digests = [one["digest"] for one in (manifest["config"], *manifest["layers"])]
        assert [said["Config"], *said["Layers"]] == [f"blobs/sha256/{digest[7:]}" for digest in digests]


def test_a_root_file_system_may_be_a_tar_file(place: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "rootfs.tar.gz", "w:gz") as tar:
        tar.add(place / "rootfs", arcname=".")
        device = tarfile.TarInfo("./dev/null")
        device.type = tarfile.CHRTYPE
        tar.addfile(device)
    assert content.python_of(tmp_path / "rootfs.tar.gz") == f"/usr/bin/{PYTHON}"
    layer = layers.write(content.entries(tmp_path / "rootfs.tar.gz"), tmp_path, "base")
    found = members(gzip.decompress((tmp_path / layer.digest[7:]).read_bytes()))
    assert found.keys() == members_of(place / "rootfs")
    assert found["etc/passwd"].mtime == 1_700_000_000
    assert found["usr/bin/zlink"].linkname == f"usr/bin/{PYTHON}"


def members_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_what_is_no_root_file_system_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no Python"):
        content.python_of(tmp_path)
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/python3.7").touch()
    with pytest.raises(SystemExit, match=rf"has python3\.7, and this is {PYTHON}"):
        content.python_of(tmp_path)


def test_a_wheel_that_is_missing_is_no_image(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "pins/gateway.txt").write_text("gamma==1.0\n")
    with pytest.raises(SystemExit, match=r"could not install gateway\.txt"):
        make(place, "broken", "gateway")
    assert "gamma" in capfd.readouterr().err


def test_what_is_there_is_not_written_over(place: Path, layout: Path) -> None:
    with pytest.raises(SystemExit, match="is there already"):
        make(place, "layout", "reward")
