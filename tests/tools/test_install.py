"""The decisions of `tools/install.py`: which build of PyTorch, from where, and when to install again."""

import fcntl
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tools import install

CPU, FROM_INDEX, PLAIN = install.torch_attempts("9.8.7", system="Linux", gpu=False)


class RecordedPip:
    """Stands in for pip: succeeds for the attempts named in `works`, and keeps what it was asked."""

    def __init__(self, *works: install.Attempt) -> None:
        self.works = [[*attempt.options, attempt.requirement] for attempt in works]
        self.asked: list[Sequence[str]] = []
        self.hushed: list[bool] = []

    def __call__(self, arguments: Sequence[str], *, hush: bool = False) -> bool:
        self.asked.append(arguments)
        self.hushed.append(hush)
        return arguments in self.works


def test_linux_without_gpu_tries_the_cpu_build_first_and_cuda_last():
    assert [attempt.requirement for attempt in (CPU, FROM_INDEX, PLAIN)] == [
        "torch==9.8.7+cpu",
        "torch==9.8.7+cpu",
        "torch==9.8.7",
    ]
    assert CPU.options == () and CPU.index is None  # the person's own index or mirror
    assert install.CPU_INDEX in FROM_INDEX.options and FROM_INDEX.index == install.CPU_INDEX


@pytest.mark.parametrize(("system", "gpu"), [("Linux", True), ("Darwin", False), ("Darwin", True)])
def test_elsewhere_the_plain_build_is_the_only_attempt(system: str, gpu: bool):
    attempts = install.torch_attempts("9.8.7", system=system, gpu=gpu)
    assert [(attempt.requirement, attempt.options) for attempt in attempts] == [("torch==9.8.7", ())]


def test_a_mirror_with_the_cpu_build_is_never_left_for_another_index():
    pip = RecordedPip(CPU)
    install.install_torch([CPU, FROM_INDEX, PLAIN], pip, lambda url: pytest.fail(f"{url} was asked"))
    assert len(pip.asked) == 1


def test_pytorchs_index_is_used_where_it_answers():
    pip = RecordedPip(FROM_INDEX, PLAIN)
    install.install_torch([CPU, FROM_INDEX, PLAIN], pip, lambda url: True)
    assert pip.asked[-1] == [*FROM_INDEX.options, "torch==9.8.7+cpu"]


def test_an_index_that_does_not_answer_is_passed_over():
    pip = RecordedPip(FROM_INDEX, PLAIN)
    install.install_torch([CPU, FROM_INDEX, PLAIN], pip, lambda url: False)
    assert pip.asked == [["torch==9.8.7+cpu"], ["torch==9.8.7"]]


def test_only_the_last_failure_is_shown_and_it_ends_the_set_up():
    pip = RecordedPip()
    with pytest.raises(SystemExit, match="could not install PyTorch"):
        install.install_torch([CPU, FROM_INDEX, PLAIN], pip, lambda url: True)
    assert pip.hushed == [True, True, False]


def test_the_pinned_version_is_read_from_pyproject(tmp_path: Path):
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(
        '[project.optional-dependencies]\na = ["x", "torch==1.2.3"]\nb = ["torch-extra==4"]\n'
    )
    assert install.torch_version(pyproject) == "1.2.3"
    assert install.torch_version(install.ROOT / "pyproject.toml")


def test_a_server_that_never_speaks_counts_as_unreachable_within_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        assert not install.answers(f"http://127.0.0.1:{silent.getsockname()[1]}/", seconds=0.3)
        assert time.monotonic() - begun < 3


def test_any_http_status_counts_as_an_answer():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(
                    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )

        thread = threading.Thread(target=refuse)
        thread.start()
        assert install.answers(f"http://127.0.0.1:{server.getsockname()[1]}/", seconds=10)
        thread.join(10)


def test_a_closed_port_is_no_answer():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert not install.answers(f"http://127.0.0.1:{port}/", seconds=10)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, RecordedPip]:
    """An environment whose pip is only recorded, and that recorder."""
    directory = tmp_path / "venv"
    (directory / "bin").mkdir(parents=True)
    for name in ("python", "pip"):
        (directory / "bin" / name).touch()
    pip = RecordedPip()
    pip.works = [list(install.BUNDLES["runner"].requirements)]
    monkeypatch.setattr(install, "pip_of", lambda _: lambda arguments, **hush: pip(list(arguments), **hush))
    return directory, pip


def test_a_bundle_is_installed_once(environment: tuple[Path, RecordedPip]):
    directory, pip = environment
    install.install(directory, "runner")
    install.install(directory, "runner")
    assert len(pip.asked) == 1


def test_a_changed_digest_installs_again(
    environment: tuple[Path, RecordedPip], monkeypatch: pytest.MonkeyPatch
):
    directory, pip = environment
    install.install(directory, "runner")
    monkeypatch.setattr(install, "digest", lambda bundle: "changed")
    install.install(directory, "runner")
    assert len(pip.asked) == 2


def test_a_failed_installation_leaves_no_stamp(environment: tuple[Path, RecordedPip]):
    directory, pip = environment
    pip.works = []
    with pytest.raises(SystemExit):
        install.install(directory, "runner")
    assert not list(directory.glob(".installed-*"))


def test_two_calls_at_once_take_turns(environment: tuple[Path, RecordedPip]):
    directory, pip = environment
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=install.install, args=(directory, "runner"))
        second.start()
        second.join(0.2)
        assert second.is_alive() and pip.asked == []
    second.join(10)
    assert len(pip.asked) == 1


def test_what_the_requirements_must_not_leave_is_removed_before_the_stamp(
    environment: tuple[Path, RecordedPip], monkeypatch: pytest.MonkeyPatch
):
    directory, pip = environment
    bundle = install.BUNDLES["vllm"]
    torch = install.torch_attempts(
        install.torch_version(install.ROOT / "pyproject.toml"), system="Linux", gpu=False
    )[0]
    pip.works = [[torch.requirement], list(bundle.requirements)]
    monkeypatch.setattr(install.platform, "system", lambda: "Linux")
    monkeypatch.setattr(install, "has_nvidia_gpu", lambda: True)
    removed: list[tuple[Path, Sequence[str], bool]] = []
    monkeypatch.setattr(
        install,
        "remove",
        lambda where, packages: removed.append((where, packages, (where / ".installed-vllm").exists())),
    )
    install.install(directory, "vllm")
    assert pip.asked == [[torch.requirement], list(bundle.requirements)], "the CPU build even beside a GPU"
    assert removed == [(directory, bundle.unwanted, False)]
    assert (directory / ".installed-vllm").exists()
