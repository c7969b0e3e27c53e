"""The binary messages: generated from `wire.proto`, and equal to the protocol's in all but the package name."""

import re
import subprocess
import sys

from google.protobuf import descriptor_pb2

from rekindle.types import generate, wire_pb2


def test_the_checked_in_modules_equal_a_fresh_generation(tmp_path):
    module, stub = generate.generate(tmp_path)
    here = generate.ROOT / "rekindle" / "types"
    assert (here / "wire_pb2.py").read_text() == module.read_text(), "run `task generate`"
    # constructors in stubs are spelled differently by different versions of protoc; declarations are not
    assert declarations((here / "wire_pb2.pyi").read_text()) == declarations(stub.read_text())


def test_the_module_asks_for_no_particular_version_of_the_library():
    source = (generate.ROOT / "rekindle" / "types" / "wire_pb2.py").read_text()
    assert "runtime_version" not in source


def test_fields_numbers_and_types_are_those_of_the_tinker_client():
    from tinker.proto import tinker_public_pb2

    assert signatures(wire_pb2) == signatures(tinker_public_pb2)


def test_both_packages_load_into_one_process_in_either_order():
    for first, second in (("rekindle.types", "tinker"), ("tinker", "rekindle.types")):
        code = f"import sys; sys.path.insert(0, {str(generate.ROOT)!r}); import {first}, {second}"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def declarations(stub: str) -> list[str]:
    return re.findall(r"^\s*(?:class .*|\w+: .*)$", stub, re.MULTILINE)


def signatures(module) -> dict[str, str]:
    """Every message and enum by name, without the package."""
    file = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    package = f".{file.package}."
    return {item.name: str(item).replace(package, "") for item in [*file.message_type, *file.enum_type]}
