"""One test of assertions, in a process that never holds the program: it asks the program's process for values.

The test passes when its last statement has run, and only this process can say so. Names that the program defines
stand for what lies on the other side. Names that mean something without it never do: builtins, and modules of the
standard library where the test takes an attribute of one, as in `math.isclose(…)`; else a program could bring its
own `abs`. `from solution import abs` says that the program's is meant.
"""

import ast
import asyncio
import builtins
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Collection, Iterator
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, BinaryIO, Literal, NamedTuple

from services.reward.guests.peer import Lost, Peer, Remote, describe
from services.reward.guests.program import NAME, UNREADABLE

TEST = f"{__name__}:test"
MODULE = "test"
"""Of what the test defines."""
FIND, WHOLE = 0, 1
"""What the program lends first: a search by names, and its module."""

Word = Literal["passed", "failed", "lost", "syntax", "broken"]


class Verdict(NamedTuple):
    """`lost`: the program did not run to an end; `syntax`: it is no Python; `broken`: the test itself is not."""

    word: Word
    reason: str = ""


def test(payload: bytes, report: BinaryIO, fds: list[int]) -> None:
    """Run `[setup, text]` with the program at the other end of the one descriptor; the report is a Verdict."""
    setup, text = json.loads(payload)
    verdict = _verdict(setup, text, Tester(fds[0]))
    report.write(json.dumps(verdict).encode())


class Tester(Peer):
    """The side of the test: the program may call its functions, and use objects of classes that it defines."""

    looked = False
    """Whether the test has looked up anything of the program: what goes wrong from then on is the program's."""

    def may(self, operation: str, target: Any, arguments: list[Any]) -> bool:
        if operation in ("get", "set"):
            return type(target).__module__ == MODULE and not str(arguments[0]).startswith("_")
        return operation not in ("str", "repr", "holds", "await")

    def lend(self, value: object) -> list[Any]:
        name = getattr(value, "__name__", "")
        if isinstance(value, BuiltinFunctionType) and vars(builtins).get(name) is value:
            return ["builtin", name]
        if callable(value) or hasattr(value, "__next__") or type(value).__module__ == MODULE:
            return super().lend(value)
        raise TypeError(f"{type(value).__name__}: cannot be given to the program")

    def look_up(self, find: Callable[[], Any]) -> Any:
        """What the program has under a name. Where that is no object of its own, looking is all the use there is: a
        program that sets a name to a plain value, or to nothing, must not make its test look broken."""
        self.looked = True
        self.used += 1
        found = find()
        self.used -= isinstance(found, Remote)
        return found


class Solution(ModuleType):
    """The program, as the test imports it."""

    def __init__(self, peer: Tester) -> None:
        super().__init__(NAME)
        self.__peer = peer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.__peer.look_up(lambda: self.__peer.ask("get", WHOLE, name))


class Scope(dict[str, Any]):
    """What names mean that the test does not define: builtins and, for those that are free, what the program has."""

    def __init__(self, peer: Tester, free: Collection[str], found: dict[str, Any]) -> None:
        super().__init__(vars(builtins))
        self._peer, self._free, self._found = peer, free, found

    def __missing__(self, name: str) -> Any:
        if name not in self._free:
            raise KeyError(name)
        return self._peer.look_up(lambda: self._found[name])


def _verdict(setup: str, text: str, peer: Tester) -> Verdict:
    try:
        trees = [ast.parse(part) for part in (setup, text)]
        code = [compile(part, "<test>", "exec", dont_inherit=True) for part in trees]
    except UNREADABLE as error:
        return Verdict("broken", f"the test does not compile: {describe(error)}")
    try:
        match peer.receive():
            case ["ready"]:
                return _run(trees, code, peer)
            case ["syntax", str() as why]:
                return Verdict("syntax", why)
            case ["broken", str() as why]:
                return Verdict("lost", f"the program could not be loaded: {why}")
        return Verdict("lost", "the program broke off the conversation with the test")
    except Lost as error:
        return Verdict("lost", str(error))


def _run(trees: list[ast.Module], code: list[Any], peer: Tester) -> Verdict:
    """Raises Lost."""
    names = Names.of(trees)
    found = peer.ask("call", FIND, (sorted(names.free),), {})
    if type(found) is not dict or not found.keys() <= names.free:
        peer.end("the program broke off the conversation with the test")
    sys.modules[NAME] = Solution(peer)
    sys.modules[MODULE] = module = ModuleType(MODULE)
    vars(module)["__builtins__"] = Scope(peer, names.free, found)
    try:
        vars(module).update({name: importlib.import_module(name) for name in names.modules})
        for part in code:
            exec(part, vars(module))
        for function in _uncalled(vars(module)):
            result = function()
            if inspect.iscoroutine(result):
                asyncio.run(result)
    except BaseException as error:  # noqa: BLE001 - whatever ends a test
        if peer.lost is not None:
            return Verdict("lost", peer.lost)
        if not peer.looked:
            return Verdict("broken", f"the test failed before it used the program: {describe(error)}")
        return Verdict("failed", _where(error))
    if peer.lost is not None:  # the test has caught it
        return Verdict("lost", peer.lost)
    if not peer.used:
        return Verdict("broken", "the test ended without having used the program")
    return Verdict("passed")


class Names(NamedTuple):
    """What a test refers to: `free` may be the program's, `modules` are those of the standard library."""

    free: frozenset[str]
    modules: frozenset[str]

    @classmethod
    def of(cls, trees: list[ast.Module]) -> "Names":
        nodes = [node for tree in trees for node in ast.walk(tree)]
        used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        dotted = {
            node.value.id
            for node in nodes
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        }
        bound = {name for node in nodes for name in _bound(node)}
        own = {name for name in used - bound - vars(builtins).keys() if not name.startswith("__")}
        modules = own & dotted & sys.stdlib_module_names
        return cls(frozenset(own - modules), frozenset(modules))


def _bound(node: ast.AST) -> Iterator[str]:
    """Names that the test imports: they mean what it imports, before that too."""
    if isinstance(node, ast.Import):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (alias.asname or alias.name for alias in node.names)


def _uncalled(found: dict[str, Any]) -> list[Callable[[], object]]:
    """Test functions as pytest would find them."""
    functions = [
        one for name, one in found.items() if name.startswith("test_") and isinstance(one, FunctionType)
    ]
    return [one for one in functions if one.__module__ == MODULE and not inspect.signature(one).parameters]


def _where(error: BaseException) -> str:
    """What a test failed by, and at which of its lines."""
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<test>":
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return describe(error) + (f" (line {lines[0]})" if lines else "")
