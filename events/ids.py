"""Identifiers that clients see: of runs, samplers and requests, and of the futures that belong to them.

All derive from what the client sent, so that the same POST, however often it comes, is the same thing. An owner is
whoever numbers its requests: a run, a sampler, or one request in several parts.
"""

import hashlib

QUEUES = {"score": "reward", "data": "data"}
"""First part of a request's owner, `score:<hex>`, and the work queue that answers it."""


def model_id(session: str, model_seq: int) -> str:
    return f"{session}:train:{model_seq}"


def score_id(idempotency_key: str) -> str:
    """Derives from the client's key, so that a repeated POST finds the same request."""
    return f"score:{hashlib.sha256(idempotency_key.encode()).hexdigest()[:32]}"


def data_id(hex_digits: str) -> str:
    """Owner of the requests about one thing: an upload, a version to derive from, a file to collect."""
    return f"data:{hex_digits}"


def rl_id(hex_digits: str) -> str:
    """Of a server-side RL run."""
    return f"rl-{hex_digits}"


def rl_session_id(rl_run: str, hex_digits: str) -> str:
    """Of its session; the digits are its own, also where the run's id comes again."""
    return f"{rl_run}-{hex_digits}"


def sampler_id(session: str, sampler_seq: int) -> str:
    return f"{session}:sample:{sampler_seq}"


def future_id(owner: str, seq: int) -> str:
    return f"{owner}:{seq}"


def split_future_id(request_id: str) -> tuple[str, int]:
    """`<owner>:<n>` → (owner, n). Raises ValueError for anything else."""
    owner, _, number = request_id.rpartition(":")
    if not owner or not number.isascii() or not number.isdigit():
        raise ValueError(f"request_id: {request_id!r} is not an id of a future")
    return owner, int(number)
