"""The commands of a document, and what is known of the programs that they call.

Flags of kn are those of its release 1.23 (`docs/cmd`), of kubectl those that the documents use; ours are asked of
our own parser.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

COMMON = {"-n", "--namespace", "--context", "--kubeconfig"}
KN: dict[str, set[str]] = {
    "service list": {"-o"},
    "service describe": {"-o", "--verbose"},
    "service update": {
        "--scale",
        "--scale-min",
        "--scale-max",
        "--scale-init",
        "--scale-activation",
        "--scale-target",
        "--scale-utilization",
        "--scale-window",
        "--scale-metric",
        "--concurrency-limit",
        "--timeout",
        "--traffic",
        "--tag",
        "--untag",
        "--image",
        "--revision-name",
        "--annotation-revision",
        "--annotation-service",
        "--env",
        "--limit",
        "--request",
        "--no-wait",
    },
    "revision list": {"-s", "--service", "-o"},
    "revision describe": {"-o"},
    "revision delete": {"--prune", "--no-wait"},
    "domain create": {"--ref", "--tls"},
}
KUBECTL: dict[str, set[str]] = {
    "apply": {"-f", "-k", "--server-side"},
    "get": {"-o"},
    "patch": {"--type", "-p"},
    "annotate": {"--overwrite"},
    "create secret generic": {"--from-file", "--from-literal", "--dry-run", "-o"},
    "port-forward": set(),
    "delete pods": {"-l"},
}
WITHOUT_VALUE = {"--no-wait", "--overwrite", "--server-side", "--verbose"}
OTHERS = {".", "aws", "export", "cp", "sed", "base64", "install", "pip", "python3", "./task"}
"""Programs that are looked at one by one."""


def blocks(document: Path) -> list[list[str]]:
    """The lines of its blocks of shell commands."""
    found = re.findall(r"```sh\n(.*?)\n```", document.read_text(), re.DOTALL)
    return [block.splitlines() for block in found]


def calls(line: str) -> Iterator[list[str]]:
    """The programs that a line calls, with their arguments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&>")
    lexer.whitespace_split = True
    call: list[str] = []
    words = iter(lexer)
    for word in words:
        if word in ("|", "&", "&&"):
            yield call
            call = []
        elif word == ">":
            next(words)
        else:
            call.append(word)
    if call:
        yield call


def unknown(call: list[str], known: dict[str, set[str]]) -> list[str]:
    """What is wrong with a call of kn or kubectl; empty if nothing."""
    program, *words = call
    command = next((name for name in known if words[: len(name.split())] == name.split()), None)
    if command is None:
        return [f"{program}: no command {' '.join(words[:2])}"]
    rest = words[len(command.split()) :]
    wrong = []
    for number, word in enumerate(rest):
        flag, equals, _ = word.partition("=")
        if flag.startswith("-") and flag != "-":
            if flag not in known[command] | COMMON:
                wrong.append(f"{program} {command}: no option {flag}")
            elif not equals and flag not in WITHOUT_VALUE and number + 1 == len(rest):
                wrong.append(f"{program} {command}: {flag} lacks a value")
    return wrong


def options(call: list[str]) -> dict[str, str]:
    """Options with their values, of a call that writes `--name value` or `--name=value`."""
    found = {}
    for word, after in zip(call, [*call[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name.startswith("-"):
            found[name] = value if equals else after
    return found
