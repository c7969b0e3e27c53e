"""The trained adapter, fetched through the API in PEFT's format.

`rekindle` has one call for it. With `tinker`, `save_weights_external` makes the export on the server,
`get_external_weights_urls` signs one URL a file, and plain GETs fetch them.
"""

from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from examples.text2sql.clients import Client

FILES = ("adapter_config.json", "adapter_model.safetensors")
NAME = "final"
SECONDS = 60.0


def download_adapter(client: Client, training: Any, url: str, api_key: str, folder: Path) -> None:
    """Export the current weights of a `TrainingClient` and write their files into `folder`."""
    if client == "rekindle":
        training.download(folder, NAME).result()
    else:
        _download_with_tinker(training, url, api_key, folder)
    missing = [file for file in FILES if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(f"the export {NAME} lacks {', '.join(missing)}")


def _download_with_tinker(training: Any, url: str, api_key: str, folder: Path) -> None:
    import tinker

    rest = tinker.RestClient(base_url=url, api_key=api_key)
    path = training.save_weights_external(NAME).result().path
    urls = rest.get_external_weights_urls(path).result().urls
    folder.mkdir(parents=True, exist_ok=True)
    with httpx.Client(timeout=SECONDS) as http:
        for file, link in urls.items():
            response = http.get(link).raise_for_status()
            # A name from outside: only its last part, so that it stays in the folder.
            (folder / PurePosixPath(file).name).write_bytes(response.content)
