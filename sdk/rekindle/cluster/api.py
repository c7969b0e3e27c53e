"""The cluster's API by the official client: plain dictionaries in and out, and errors that say what to do."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

from rekindle.cluster.errors import ClusterError, FieldsHeld, Held, Immutable, NotThere, Refused, UnknownKind
from rekindle.cluster.render import Manifest, describe
from rekindle.exports import package

MANAGER = "rekindle"
"""Under this name the API remembers which fields are ours."""
KNATIVE = "serving.knative.dev/v1"
PATIENCE = (10.0, 60.0)
"""Seconds for a connection, and for each part of an answer: one that is cut off is not waited for for good."""
WATCH_SECONDS = 30.0
"""No longer than that nothing need be heard of a watch: less than an answer may take, and than balancers hold it."""
FLAGS = "kubectl apply --server-side -f knative/overlays/gpu/features"
"""Tells Knative to let through what is for GPUs."""
NO_CACHE = f"{os.devnull}/none"
"""What the client would remember of a cluster in a shared folder for temporary files, it shall not."""


class Ref(NamedTuple):
    """One object. Example: Ref("v1", "Secret", "rekindle-keys", "rekindle")."""

    api_version: str
    kind: str
    name: str
    namespace: str | None = None

    @classmethod
    def of(cls, one: Manifest) -> Self:
        about = one["metadata"]
        return cls(one["apiVersion"], one["kind"], about["name"], about.get("namespace"))


class Api:
    """A cluster. All methods raise ClusterError."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    def connect(cls, context: str | None = None) -> Self:
        """The cluster of a context of the kubeconfig, None = the current one. Raises MissingPackage too."""
        kubernetes, dynamic = package("kubernetes", "cluster"), package("kubernetes.dynamic", "cluster")
        with _translated("the cluster"):
            file = os.environ.get("KUBECONFIG")  # as it is now, not as it was when the client was imported
            client = kubernetes.config.new_client_from_config(config_file=file, context=context)
            _limit(client)
            return cls(dynamic.DynamicClient(client, cache_file=NO_CACHE))

    def check_kind(self, api_version: str, kind: str) -> None:
        """Raises UnknownKind if the cluster has no such objects."""
        with _translated(kind):
            self._resource(api_version, kind)

    def get(self, ref: Ref) -> Manifest | None:
        """The object as it is, None if there is none."""
        with contextlib.suppress(NotThere), _translated(_said(ref)):
            resource = self._resource(ref.api_version, ref.kind)
            found: Manifest = resource.get(name=ref.name, namespace=ref.namespace).to_dict()
            return found
        return None

    def all(self, api_version: str, kind: str, namespace: str, selector: str | None = None) -> list[Manifest]:
        """Objects of a kind that carry these labels. Raises UnknownKind."""
        return self._listed(api_version, kind, namespace, selector)[0]

    def _listed(
        self, api_version: str, kind: str, namespace: str, selector: str | None
    ) -> tuple[list[Manifest], str]:
        with _translated(f"{kind} in {namespace}"):
            resource = self._resource(api_version, kind)
            found = resource.get(namespace=namespace, label_selector=selector).to_dict()
        return list(found["items"]), str(found["metadata"].get("resourceVersion", ""))

    def create(self, one: Manifest) -> bool:
        """Make an object; False if there is one already, which stays as it is."""
        ref = Ref.of(one)
        try:
            with _translated(describe(one)):
                resource = self._resource(ref.api_version, ref.kind)
                resource.create(body=one, namespace=ref.namespace, field_manager=MANAGER)
        except _AlreadyThere:
            return False
        return True

    def apply(self, one: Manifest, *, force: bool = False, dry_run: bool = False) -> Manifest:
        """Set what `one` says, leave the rest; what the object is then.

        Raises FieldsHeld if others have set one of these fields to something else, unless forced.
        """
        ref = Ref.of(one)
        with _translated(describe(one)):
            found: Manifest = (
                self._resource(ref.api_version, ref.kind)
                .server_side_apply(
                    body=one,
                    name=ref.name,
                    namespace=ref.namespace,
                    field_manager=MANAGER,
                    force_conflicts=True if force else None,
                    dry_run="All" if dry_run else None,
                )
                .to_dict()
            )
            return found

    def delete(self, ref: Ref) -> bool:
        """Remove an object and what belongs to it; False if there is none."""
        with contextlib.suppress(NotThere), _translated(_said(ref)):
            resource = self._resource(ref.api_version, ref.kind)
            resource.delete(name=ref.name, namespace=ref.namespace, propagation_policy="Background")
            return True
        return False

    def watch(self, api_version: str, kind: str, namespace: str, seconds: float) -> Iterator[list[Manifest]]:
        """All objects of a kind, now and after each change, for so long at most."""
        listed, version = self._listed(api_version, kind, namespace, None)
        found = {one["metadata"]["name"]: one for one in listed}
        yield list(found.values())
        resource = self._resource(api_version, kind)
        with _translated(f"{kind} in {namespace}"):
            for event in resource.watch(
                namespace=namespace,
                resource_version=version,
                timeout=max(1, int(min(seconds, WATCH_SECONDS))),
            ):
                one = event["raw_object"]
                found.pop(one["metadata"]["name"], None)
                if event["type"] != "DELETED":
                    found[one["metadata"]["name"]] = one
                yield list(found.values())

    def _resource(self, api_version: str, kind: str) -> Any:
        from kubernetes.dynamic.exceptions import ResourceNotFoundError

        try:
            return self._client.resources.get(api_version=api_version, kind=kind)
        except ResourceNotFoundError as error:
            hint = "; is Knative Serving installed?" if ".knative.dev/" in api_version else ""
            raise UnknownKind(f"the cluster has no {kind} of {api_version}{hint}") from error


class _AlreadyThere(ClusterError):
    """There is an object of this name."""


def _limit(client: Any) -> None:
    """Let no request of the client wait for good."""
    call = client.call_api

    def call_api(*words: Any, _request_timeout: Any = None, **options: Any) -> Any:
        return call(*words, _request_timeout=_request_timeout or PATIENCE, **options)

    client.call_api = call_api


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """Errors of the client as ours."""
    from kubernetes.client import ApiException
    from kubernetes.config import ConfigException
    from urllib3.exceptions import HTTPError
    from yaml import YAMLError

    try:
        yield
    except ApiException as error:
        raise _refusal(what, error) from error
    except (ConfigException, YAMLError) as error:
        file = os.environ.get("KUBECONFIG", "~/.kube/config")
        raise ClusterError(f"kubeconfig {file}: {error}") from error
    except (HTTPError, OSError) as error:
        raise ClusterError(f"{what}: the cluster does not answer: {error}") from error


def _refusal(what: str, error: Any) -> ClusterError:
    status = _status(error)
    message = f"{what}: {status.get('message') or error.reason}"
    if error.status == 404:
        return NotThere(message)
    if error.status == 409:
        causes = (status.get("details") or {}).get("causes") or []
        held = tuple(_held(one) for one in causes if one.get("reason") == "FieldManagerConflict")
        if held:
            return FieldsHeld(what, held)
        return _AlreadyThere(message) if status.get("reason") == "AlreadyExists" else Refused(message)
    if "must not set the field(s)" in message or "=0 not allowed by cluster" in message:
        message += f"; where that is meant: {FLAGS}"
    if error.status in (400, 422):
        return (Immutable if "immutable" in message else Refused)(message)
    if error.status == 401:
        return ClusterError(f"{message}: the cluster does not know the context's user; log in again")
    return ClusterError(message)


def _status(error: Any) -> dict[str, Any]:
    """The API's own words, an object of kind Status."""
    try:
        found = json.loads(error.body or "{}")
    except ValueError:  # a proxy's page
        return {}
    return found if isinstance(found, dict) else {}


def _held(cause: dict[str, str]) -> Held:
    """`conflict with "kn" using serving.knative.dev/v1` at `.spec.template…`."""
    quoted = cause.get("message", "").split('"')
    return Held(cause.get("field", ""), quoted[1] if len(quoted) > 2 else "another")


def _said(ref: Ref) -> str:
    return f"{ref.kind} {ref.name}"
