"""`rekindle keys`: what it writes is what services read."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from events.keys import Keyring
from rekindle.cli import keys
from rekindle.cli.keys import app


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def test_a_key_is_printed_once_and_opens_its_tenants_things(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    status, printed = run("add", "vision-lab", "--file", file, "--name", "ci")
    key = printed.strip()
    assert status == 0 and key.startswith("tml-") and len(key) > 40
    assert key not in file.read_text() and stat.S_IMODE(file.stat().st_mode) == 0o600
    other = run("add", "nlp", "--file", file)[1].strip()
    ring = Keyring([], file)
    assert [ring.tenant_of(one) for one in (key, other, "tml-guess")] == ["vision-lab", "nlp", None]
    listed = json.loads(run("list", "--file", file, "--json")[1])
    assert [one["tenant"] for one in listed] == ["vision-lab", "nlp"]
    assert "ci" in run("list", "--file", file)[1]
    assert run("remove", listed[0]["hash"][:16], "--file", file)[0] == 0
    assert [ring.tenant_of(one) for one in (key, other)] == [None, "nlp"], "noticed without a restart"


@pytest.mark.parametrize("digits", ["", "0", "ffffffffffffffff"])
def test_only_one_key_is_removed_at_a_time(digits: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    run("add", "a", "--file", file)
    before = file.read_text()
    status, said = run("remove", digits, "--file", file)
    assert status == 2 and "keys begin so" in " ".join(said.split())
    assert file.read_text() == before


@pytest.mark.parametrize("tenant", ["", "A", "everyone", "a_b", "a" * 41])
def test_a_tenant_that_services_would_refuse_is_refused(tenant: str, tmp_path: Path) -> None:
    assert run("add", tenant, "--file", tmp_path / "keys.json")[0] == 2
    assert not (tmp_path / "keys.json").exists()


@pytest.mark.parametrize("text", ["half a fi", "{}", '[{"hash": 1}]'])
def test_a_file_that_holds_no_keys_is_left_alone(text: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    assert run("add", "a", "--file", file)[0] == 2
    assert file.read_text() == text


def test_of_those_who_change_the_file_at_once_none_undoes_another(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    with ThreadPoolExecutor(8) as pool:
        for made in [pool.submit(keys.add, f"tenant-{number}", file) for number in range(32)]:
            made.result()
    assert {key["tenant"] for key in json.loads(file.read_text())} == {f"tenant-{n}" for n in range(32)}
