"""A base model's files are the same wherever they come from, and appear whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from events import model_files
from tests.events.hub import running_hub
from tests.s3_server import Bucket

WEIGHTS = bytes(range(256)) * 100_000
MODEL = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"hello",
}
BESIDE = {"README.md": b"#", "pytorch_model.bin": b"x", "original/model.safetensors": b"y"}
URL = "s3://blobs/models/tiny"


@pytest.fixture
def model(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The bucket with a model in it, and an empty cache."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    bucket.objects = {f"models/tiny/{name}": data for name, data in (MODEL | BESIDE).items()}
    bucket.requests.clear()
    return bucket


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith(".")}


def test_a_model_in_a_bucket_becomes_a_folder_with_what_models_are_made_of(model: Bucket) -> None:
    assert content(model_files.folder(URL)) == MODEL


def test_what_is_here_is_not_asked_for_again(model: Bucket) -> None:
    first = model_files.folder(URL)
    asked = model.count("GET", ".safetensors")
    assert asked == -(-len(WEIGHTS) // model_files.PART_BYTES)
    assert model_files.folder(URL) == first
    assert model.count("GET", ".safetensors") == asked


def test_a_configuration_alone_needs_no_weights(model: Bucket) -> None:
    found = content(model_files.folder(URL, model_files.CONFIG))
    assert found == {name: data for name, data in MODEL.items() if name.endswith(".json")}
    text = content(model_files.folder(URL, model_files.TEXT))
    assert set(text) == set(MODEL) - {"model.safetensors"}
    assert model.count("GET", ".safetensors") == 0


def test_a_model_that_was_replaced_is_another_one(model: Bucket) -> None:
    first = model_files.folder(URL)
    model.objects["models/tiny/config.json"] = b'{"model_type": "qwen3"}'
    second = model_files.folder(URL)
    assert (content(first)["config.json"], content(second)["config.json"]) == (
        MODEL["config.json"],
        b'{"model_type": "qwen3"}',
    )


def test_a_file_that_broke_off_is_not_there_and_the_others_are_kept(
    model: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = lambda method, key: method == "GET" and key.endswith(".safetensors")  # noqa: E731
    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match="s3://blobs/models/tiny cannot be read"),
    ):
        patch.setattr(model, "refuse", refuse)
        model_files.folder(URL)
    folder = model_files.folder(URL, model_files.TEXT)
    assert "model.safetensors" not in content(folder)
    before = model.count("GET", "config.json")
    assert content(model_files.folder(URL)) == MODEL
    assert model.count("GET", "config.json") == before


def test_a_disk_that_takes_a_part_only_is_asked_for_the_rest(
    model: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda handle, data, place: write(handle, data[:1_000_000], place))
        assert content(model_files.folder(URL)) == MODEL


def test_a_file_that_changes_under_way_is_refused(model: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(method: str, key: str) -> bool:
        if method == "GET" and key.endswith(".safetensors"):
            model.objects[key] = WEIGHTS[::-1]
        return False

    monkeypatch.setattr(model, "refuse", changed)
    with pytest.raises(OSError, match="cannot be read"):
        model_files.folder(URL)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("s3://blobs/models/none", "s3://blobs/models/none holds no model"),
        ("s3://elsewhere/models", "s3://elsewhere/models cannot be read"),
        ("/no/such/folder", "no folder '/no/such/folder'"),
    ],
)
def test_a_model_that_is_not_there_is_named(model: Bucket, source: str, says: str) -> None:
    with pytest.raises(OSError, match=says):
        model_files.folder(source)


@pytest.mark.parametrize("source", ["hf://", "hf://org/name@", "hf://a/b/c", "gs://bucket/model"])
def test_what_is_no_source_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="base_source"):
        model_files.folder(source)


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert model_files.folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    ("source", "known"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("hf://Qwen/Qwen3-8B@v1", "Qwen/Qwen3-8B"),
        ("s3://bucket/qwen", "our-name"),
        ("/models/qwen", "/models/qwen"),
    ],
)
def test_others_load_a_model_by_a_name_that_means_something_to_them(source: str, known: str) -> None:
    assert model_files.known_as(source, "our-name") == known


@pytest.mark.parametrize("source", ["org/tiny", "hf://org/tiny", "hf://org/tiny@v1"])
def test_a_model_of_the_hub_is_fetched_by_its_own_client(source: str, tmp_path: Path) -> None:
    program = f"from events import model_files; print(model_files.folder({source!r}))"
    with running_hub(MODEL | BESIDE) as hub:
        variables = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        variables.pop("HF_HUB_OFFLINE", None)
        said = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert content(Path(said.stdout.strip())) == MODEL
