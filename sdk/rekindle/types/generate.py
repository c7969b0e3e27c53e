"""Generates `wire_pb2.py` and `wire_pb2.pyi` from `wire.proto`: `python sdk/rekindle/types/generate.py`.

The output does not depend on the generator's version: protoc stamps its own version into the module and
refuses any older runtime, although these messages need nothing newer than the `protobuf` floor in
pyproject.toml. Inference engines pin that library, so the stamp is taken out.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROTO = "rekindle/types/wire.proto"
STAMP = re.compile(
    r"^# Protobuf Python Version: .*\n"
    r"|^from google\.protobuf import runtime_version as _runtime_version\n"
    r"|^_runtime_version\.ValidateProtobufRuntimeVersion\(\n(?:    .*\n)*\)\n",
    re.MULTILINE,
)


def generate(out: Path) -> list[Path]:
    """Writes the two modules under the folder `out`, in their package's path; returns their paths."""
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", PROTO]
    subprocess.run([*protoc, f"--python_out={out}", f"--pyi_out={out}"], check=True)
    module = (out / PROTO).with_name("wire_pb2.py")
    module.write_text(STAMP.sub("", module.read_text()))
    return [module, module.with_suffix(".pyi")]


def main() -> None:
    """Replaces the checked-in modules once both were made."""
    with tempfile.TemporaryDirectory() as folder:
        for path in generate(Path(folder)):
            (ROOT / PROTO).with_name(path.name).write_text(path.read_text())


if __name__ == "__main__":
    main()
