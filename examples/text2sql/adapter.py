"""The trained adapter, fetched through the API in PEFT's format.

`save_weights_external` makes the export on the server, `get_external_weights_urls` signs one URL a file, and
plain GETs fetch them.
"""

from pathlib import Path, PurePosixPath

import httpx
import tinker

FILES = ("adapter_config.json", "adapter_model.safetensors")
SECONDS = 60.0


def download_adapter(
    training: tinker.TrainingClient, rest: tinker.RestClient, folder: Path, name: str = "final"
) -> None:
    """Export the current weights under `name` and write their files into `folder`."""
    path = training.save_weights_external(name).result().path
    urls = rest.get_external_weights_urls(path).result().urls
    missing = set(FILES) - set(urls)
    if missing:
        raise FileNotFoundError(f"the export {path} lacks {', '.join(sorted(missing))}")
    folder.mkdir(parents=True, exist_ok=True)
    with httpx.Client(timeout=SECONDS) as client:
        for file, url in urls.items():
            response = client.get(url).raise_for_status()
            # A name from outside: only its last part, so that it stays in the folder.
            (folder / PurePosixPath(file).name).write_bytes(response.content)
