"""Names of a base model's services, as the server side makes them.

The server's own table is out of reach for a client's package; a test holds both to the same names.
"""

import hashlib
import re

SLUG_LENGTH = 30


def token(name: str) -> str:
    """`Qwen/Qwen3-8B` → `qwen-qwen3-8b-<8 hex>`: a DNS label of at most 39 characters."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:SLUG_LENGTH].strip("-")
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{slug}-{digest}" if slug else digest


def service_name(kind: str, base: str | None) -> str:
    """`sample-<token of the base model>`, or the kind alone."""
    return kind if base is None else f"{kind}-{token(base)}"
