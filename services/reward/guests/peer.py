"""A conversation of two processes over a socket: each asks for things that the other does with its objects.

Messages are lines of JSON: `["ask", operation, object, arguments…]`, answered by `["value", …]`, `["raise", …]` or
`["end"]`. While one side waits for an answer, the other may ask back; so answers need no numbers. What is not plain
(`values`) stays where it is, and the other side holds a `Remote` that stands for it.

A side decides alone what is done to its objects (`may`, `lend`) and takes nothing that it is sent for more than
a value. What breaks the conversation is `Lost`, which no `except Exception` catches.
"""

import asyncio
import builtins
import inspect
import json
import os
from collections.abc import Callable
from typing import Any, NoReturn

from services.reward.guests import values

MAX_MESSAGE = 16 * 2**20
CHUNK = 2**16
MAX_TEXT = 300
"""Of what is said about an exception."""
RAISED: dict[str, type[Exception]] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type)
    and issubclass(kind, Exception)
    and not issubclass(kind, StopIteration | StopAsyncIteration)
}
"""Exceptions that are raised again on the other side. Those that end a loop are not: an `all(map(f, …))` would
end early and well."""
MUTABLE = (list, dict, set, bytearray)


class Lost(BaseException):
    """The other side is gone, or does not keep to what was agreed."""


class Exited(BaseException):
    """The other side met an exception that ends programs, such as SystemExit."""


class Remote:
    """An object of the other side. All that is done to it is done there; it equals nothing but itself."""

    __slots__ = ("__peer", "__ref")

    def __init__(self, peer: "Peer", ref: int) -> None:
        object.__setattr__(self, "_Remote__peer", peer)
        object.__setattr__(self, "_Remote__ref", ref)

    def __ask(self, operation: str, *arguments: Any) -> Any:
        self.__peer.used += 1
        return self.__peer.ask(operation, self.__ref, *arguments)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.__ask("call", arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"{name}: not asked of objects of the program")
        return self.__ask("get", name)

    def __setattr__(self, name: str, value: object) -> None:
        self.__ask("set", name, value)

    def __getitem__(self, key: object) -> Any:
        return self.__ask("item", key)

    def __setitem__(self, key: object, value: object) -> None:
        self.__ask("set item", key, value)

    def __delitem__(self, key: object) -> None:
        self.__ask("delete item", key)

    def __len__(self) -> int:
        return self.__ask("len")  # type: ignore[no-any-return]

    def __bool__(self) -> bool:
        return self.__ask("bool")  # type: ignore[no-any-return]

    def __iter__(self) -> Any:
        return self.__ask("iter")

    def __next__(self) -> Any:
        return self.__ask("next")

    def __await__(self) -> Any:
        return self.__ask("await")
        yield  # an iterator, as `await` wants one; nothing is ever waited for here

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, Remote) and bool(self.__ask("holds", instance))

    def __str__(self) -> str:
        return self.__ask("str")  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return self.__ask("repr")  # type: ignore[no-any-return]


async def _outcome(awaitable: Any) -> Any:
    return await awaitable


OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda target, arguments, named: target(*arguments, **named),
    "get": getattr,
    "set": setattr,
    "item": lambda target, key: target[key],
    "set item": lambda target, key, value: target.__setitem__(key, value),
    "delete item": lambda target, key: target.__delitem__(key),
    "len": len,
    "bool": bool,
    "iter": iter,
    "next": next,
    "await": lambda target: asyncio.run(_outcome(target)),
    "holds": lambda target, instance: isinstance(instance, target),
    "str": str,
    "repr": repr,
}


class Peer:
    """One side. A subclass says what the other one may do."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = bytearray()
        self._lent: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._remotes: dict[int, Remote] = {}
        self.lost: str | None = None
        """Why the conversation is over; None: it is not."""
        self.used = 0
        """How often something was done to an object of the other side; to look one up is not yet to use it."""

    # ---- What a side decides ----

    def may(self, operation: str, target: Any, arguments: list[Any]) -> bool:
        """Whether the other side may do that to an object of this one."""
        return True

    def lend(self, value: object) -> list[Any]:
        """A reference to an object of this side. Raises TypeError for one that the other side shall not have."""
        number = self._numbers.setdefault(id(value), len(self._lent))
        if number == len(self._lent):
            self._lent.append(value)  # kept, so that its id stays its own
        return ["coroutine" if inspect.iscoroutine(value) else "object", number]

    # ---- Asking ----

    def ask(self, operation: str, ref: int, *arguments: Any) -> Any:
        """Have the other side do something. Raises what it raised there, Exited or Lost."""
        self.send(["ask", operation, ref, *map(self._encode, arguments)])
        while True:
            match self.receive():
                case ["ask", str() as wanted, int() as number, *rest]:
                    self._answer(wanted, number, rest)
                case ["value", result, *changes]:
                    if operation == "call" and result is None:
                        self._change(arguments[0], changes)
                    return self._decode(result)
                case ["end"] if operation == "next":
                    raise StopIteration
                case ["raise", str() as name, list() as said]:
                    self._raise(name, said)
                case _:
                    self.end("the program broke off the conversation with the test")

    def _raise(self, name: str, said: list[Any]) -> NoReturn:
        arguments = [self._decode(one) for one in said]
        if name not in RAISED:
            if name in ("StopIteration", "StopAsyncIteration"):
                raise RuntimeError(f"the program raised {name}")
            raise Exited(f"the program raised {name}")
        try:
            error = RAISED[name](*arguments)
        except Exception:  # noqa: BLE001 - one that cannot be made of these arguments
            error = RuntimeError(f"{name}: {arguments}")
        raise error

    def _change(self, arguments: tuple[Any, ...], changes: list[Any]) -> None:
        """A function that returned None has changed what it was given, as `list.sort` does."""
        for change in changes:
            match change:
                case [int() as place, wire] if 0 <= place < len(arguments):
                    old, new = arguments[place], self._decode(wire)
                    if type(old) is not type(new) or type(old) not in MUTABLE:
                        self.end("the program changed the type of an argument")
                    old.clear()
                    fill = old.extend if isinstance(old, list | bytearray) else old.update
                    fill(new)
                case _:
                    self.end("the program broke off the conversation with the test")

    # ---- Being asked ----

    def serve(self) -> None:
        """Answer until the other side is gone; raises Lost then."""
        while True:
            match self.receive():
                case ["ask", str() as wanted, int() as number, *rest]:
                    self._answer(wanted, number, rest)
                case _:
                    self.end("an answer that nobody asked for")

    def _answer(self, operation: str, number: int, rest: list[Any]) -> None:
        try:
            self.send(self._perform(operation, number, rest))
        except Lost:
            raise
        except BaseException as error:  # noqa: BLE001 - told to whoever asked
            self.send(self._told(operation, error))

    def _perform(self, operation: str, number: int, rest: list[Any]) -> list[Any]:
        target, arguments = self._target(number), [self._decode(one) for one in rest]
        if not self.may(operation, target, arguments):
            raise PermissionError(f"{operation}: not to this object of the test")
        before = self._mutable(operation, arguments)
        result = OPERATIONS[operation](target, *arguments)
        after = self._mutable(operation, arguments) if result is None else before
        changes = [[place, wire] for place, wire in after.items() if wire != before[place]]
        return ["value", self._encode(result), *changes]

    def _target(self, number: int) -> Any:
        if not 0 <= number < len(self._lent):
            raise LookupError(f"no object {number}")
        return self._lent[number]

    def _mutable(self, operation: str, arguments: list[Any]) -> dict[int, Any]:
        if operation != "call":
            return {}
        return {place: self._encode(one) for place, one in enumerate(arguments[0]) if type(one) in MUTABLE}

    def _told(self, operation: str, error: BaseException) -> list[Any]:
        """An exception as the nearest builtin one, with what it says."""
        if operation == "next" and isinstance(error, StopIteration):
            return ["end"]
        name = next(
            kind.__name__ for kind in type(error).__mro__ if vars(builtins).get(kind.__name__) is kind
        )
        try:
            said = [values.encode(one, _refuse) for one in error.args]
        except Exception:  # noqa: BLE001 - arguments that cannot travel, or whose methods fail
            said = [describe(error)]
        return ["raise", name, said]

    # ---- Values and messages ----

    def _encode(self, value: Any) -> Any:
        return values.encode(value, self._reference)

    def _reference(self, value: Any) -> list[Any]:
        if isinstance(value, Remote) and value._Remote__peer is self:
            return ["yours", value._Remote__ref]
        return self.lend(value)

    def _decode(self, wire: Any) -> Any:
        try:
            return values.decode(wire, self._resolve)
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
            self.end("the program sent what is no value")

    def _resolve(self, wire: list[Any]) -> Any:
        match wire:
            case ["object", int() as number]:
                return self._remotes.setdefault(number, Remote(self, number))
            case ["coroutine", int() as number]:  # a real one, since asyncio takes no other
                return _outcome(Remote(self, number))
            case ["yours", int() as number]:
                return self._target(number)
        raise ValueError("no value")

    def send(self, message: list[Any]) -> None:
        """Raises Lost, or ValueError for more than the other side would take."""
        line = json.dumps(message).encode()
        if len(line) >= MAX_MESSAGE:
            raise ValueError(f"a value of {len(line)} bytes, above {MAX_MESSAGE}")
        data = memoryview(line + b"\n")
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            self.end("the program has ended")

    def receive(self) -> Any:
        """The next message. Raises Lost."""
        looked = 0
        while (end := self._buffer.find(b"\n", looked)) < 0:
            looked = len(self._buffer)
            try:
                part = os.read(self._fd, CHUNK)
            except OSError:
                part = b""
            if not part or looked > MAX_MESSAGE:
                self.end("the program has ended" if not part else "the program sent more than it may")
            self._buffer += part
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            self.end("the program broke off the conversation with the test")

    def end(self, why: str) -> NoReturn:
        """Nothing more is said. Raises Lost."""
        self.lost = self.lost or why
        raise Lost(self.lost)


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"{type(value).__name__} is no plain value")


def describe(error: BaseException) -> str:
    """`ValueError: what it says`, short."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - somebody else's code
        said = ""
    return f"{type(error).__name__}: {said}"[:MAX_TEXT] if said else type(error).__name__
