"""A sandbox for untrusted code that needs no privileges: guests are forks of a warm interpreter, confined.

limits.py      what a guest may use, and how it ended
layers.py      the mechanisms that hold it, in one table
sandbox.py     the sandbox: one warm interpreter, any number of runs
run.py         one run as the service sees it
streams.py     the service's ends of a guest's streams
watch.py       limits that the kernel does not keep
scratch.py     folders that survive no guest
warm.py        the service's end of the warm interpreter
wire.py        what the two say to each other
zygote.py      the warm interpreter
guest.py       the guest's process
confine.py     its confinement, step by step
landlock.py    files and TCP, by ctypes
seccomp.py     filters of system calls, by ctypes
rules.py       which system calls are allowed
syscalls.py    their numbers
libc.py        prctl and system calls
bubblewrap.py  namespaces, where they may be made
probe.py       what is in force here, found by trying
attempts.py    the forbidden things that the probe tries
"""

from services.reward.sandbox.layers import MECHANISMS, Layer, Level, Mechanism
from services.reward.sandbox.limits import Ended, Limits
from services.reward.sandbox.probe import SandboxTooWeak
from services.reward.sandbox.sandbox import Sandbox
from services.reward.sandbox.warm import SandboxDied, SandboxError

__all__ = [
    "MECHANISMS",
    "Ended",
    "Layer",
    "Level",
    "Limits",
    "Mechanism",
    "Sandbox",
    "SandboxDied",
    "SandboxError",
    "SandboxTooWeak",
]
