"""Where a base model's files come from: a folder, the Hugging Face hub, or a bucket of S3.

A source is written as a path, `[hf://]ORG/NAME[@REVISION]` or `s3://bucket[/prefix]`. What is not here yet is
downloaded once and kept beside the hub's own files (HF_HOME); a file appears whole or not at all, and a model that
has changed in its bucket is another one. Only files that models are made of are taken: safetensors weights,
configurations and tokenizers, from the source's top folder. Credentials and endpoints are the usual variables:
HF_TOKEN, HF_ENDPOINT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, …

Blocks: call it from a thread of its own. Knows nothing of what is in the files.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from events.range_file import write_range

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Store

log = structlog.get_logger(__name__)

CONFIG = ("*.json",)
"""Enough to know what a model is like."""
TEXT = ("tokenizer*", "special_tokens_map.json", "chat_template*", "*.model", "vocab*", "merges.txt")
"""Tokenizers of all kinds."""
WHOLE = ("*.safetensors", "*.json", *TEXT)
"""A model to be run."""
NEVER = ("*/*", "consolidated*.safetensors")
"""Whatever the pattern: weights a second time, in their authors' format."""
BUCKET, HUB = "s3://", "hf://"
PART_BYTES = 8 * 1024 * 1024
AT_ONCE = 8
"""Parts of a file under way at once."""
PATIENCE = 60.0
"""Seconds for which a bucket is asked again before it is given up."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w.-]+")


def folder(source: str, files: Sequence[str] = WHOLE) -> Path:
    """The model's folder on this machine, with the files of these patterns in it.

    Raises ValueError for what is no source, OSError when there is no such model or it cannot be fetched.
    """
    if source.startswith(BUCKET):
        return _from_bucket(source, files)
    if not _is_path(source):
        return _from_hub(source, files)
    path = Path(source).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"base_source: there is no folder {source!r}")
    return path


def known_as(source: str, name: str) -> str:
    """By what others load the same model, tokenizer or weights: its folder or hub id, else its own `name`."""
    if source.startswith(BUCKET):
        return name
    return source if _is_path(source) else source.removeprefix(HUB).partition("@")[0]


def _is_path(source: str) -> bool:
    return source.startswith(("/", ".", "~")) or Path(source).is_dir()


def _from_hub(source: str, files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download  # not every service has a use for it

    name, separator, revision = source.removeprefix(HUB).partition("@")
    if not HUB_ID.fullmatch(name) or (separator and not revision):
        raise ValueError(
            f"base_source: {source!r}, expected a folder, [hf://]ORG/NAME[@REVISION], or s3://bucket/prefix"
        )
    found = snapshot_download(
        name, revision=revision or None, allow_patterns=list(files), ignore_patterns=list(NEVER)
    )
    return Path(found)


def _from_bucket(url: str, files: Sequence[str]) -> Path:
    from obstore.exceptions import BaseError  # as for blobs: the library only where it is wanted

    from events.s3_blobs import open_store

    store = open_store(url, PATIENCE)
    try:
        listed = sorted((meta for chunk in store.list() for meta in chunk), key=lambda meta: meta["path"])
        listed = [meta for meta in listed if _is_wanted(meta["path"], WHOLE)]
        if "config.json" not in [meta["path"] for meta in listed]:
            raise FileNotFoundError(f"base_source: {url} holds no model (there is no config.json)")
        place = _place(url, listed)
        with _alone(place):
            _complete(store, [meta for meta in listed if _is_wanted(meta["path"], files)], place)
    except BaseError as error:
        raise OSError(f"base_source: {url} cannot be read: {str(error).partition(chr(10))[0]}") from error
    return place


def _is_wanted(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, one) for one in patterns) and not any(fnmatch(name, one) for one in NEVER)


def _place(url: str, listed: "list[ObjectMeta]") -> Path:
    """A folder for exactly these files."""
    from huggingface_hub.constants import HF_HOME

    content = repr([(meta["path"], meta["size"], meta["e_tag"]) for meta in listed])
    place = Path(HF_HOME) / "rekindle" / hashlib.sha256(f"{url}\n{content}".encode()).hexdigest()[:32]
    place.mkdir(parents=True, exist_ok=True)
    return place


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """One process at a time: trainer and sampler of one machine begin together."""
    with open(place / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _complete(store: "S3Store", wanted: "list[ObjectMeta]", place: Path) -> None:
    missing = [meta for meta in wanted if not (place / meta["path"]).exists()]
    total, done = sum(meta["size"] for meta in missing), 0
    for meta in missing:
        _download(store, meta, place / meta["path"])
        done += meta["size"]
        log.info("model.fetched", file=meta["path"], bytes=done, of=total)


def _download(store: "S3Store", meta: "ObjectMeta", file: Path) -> None:
    """In ranges, so that a connection that breaks costs one of them."""
    part = file.with_name(f".{file.name}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def fetch(start: int) -> None:
        end = min(start + PART_BYTES, meta["size"])
        found = store.get(meta["path"], options={"range": (start, end), "if_match": meta["e_tag"]})
        data = found.bytes()
        assert len(data) == end - start, f"{meta['path']} has changed its size"
        write_range(handle, memoryview(data), start)

    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(fetch, range(0, meta["size"], PART_BYTES)))
    finally:
        os.close(handle)
    part.replace(file)
