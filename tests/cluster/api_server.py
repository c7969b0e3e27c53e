"""A Kubernetes API server in this process, for the real client: discovery, objects, server-side apply, watches.

It keeps objects and who has set which field, admits them as Kubernetes and Knative's webhook do, and runs no
controller but those that a test gives it: functions from an object that was written to the status that it shall have.
"""

import base64
import copy
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.cluster import ownership
from tests.cluster.admission import Invalid, admitted, generation
from tests.cluster.ownership import Conflicts, Manager, Object, Owners

CLUSTER, NAMESPACED = False, True
KINDS: dict[str, dict[str, tuple[str, bool]]] = {
    "v1": {
        "Namespace": ("namespaces", CLUSTER),
        "Secret": ("secrets", NAMESPACED),
        "ConfigMap": ("configmaps", NAMESPACED),
        "Service": ("services", NAMESPACED),
        "ServiceAccount": ("serviceaccounts", NAMESPACED),
        "Pod": ("pods", NAMESPACED),
        "Event": ("events", NAMESPACED),
        "ResourceQuota": ("resourcequotas", NAMESPACED),
        "PersistentVolumeClaim": ("persistentvolumeclaims", NAMESPACED),
    },
    "apps/v1": {"Deployment": ("deployments", NAMESPACED), "StatefulSet": ("statefulsets", NAMESPACED)},
    "batch/v1": {"Job": ("jobs", NAMESPACED), "CronJob": ("cronjobs", NAMESPACED)},
    "policy/v1": {"PodDisruptionBudget": ("poddisruptionbudgets", NAMESPACED)},
    "networking.k8s.io/v1": {"NetworkPolicy": ("networkpolicies", NAMESPACED)},
    "rbac.authorization.k8s.io/v1": {
        "Role": ("roles", NAMESPACED),
        "RoleBinding": ("rolebindings", NAMESPACED),
        "ClusterRole": ("clusterroles", CLUSTER),
        "ClusterRoleBinding": ("clusterrolebindings", CLUSTER),
    },
    "serving.knative.dev/v1": {"Service": ("services", NAMESPACED), "Revision": ("revisions", NAMESPACED)},
    "autoscaling.internal.knative.dev/v1alpha1": {"PodAutoscaler": ("podautoscalers", NAMESPACED)},
}


class Key(NamedTuple):
    """Where an object is. Example: Key("v1", "secrets", "rekindle", "rekindle-keys")."""

    api_version: str
    plural: str
    namespace: str
    name: str


class Refusal(Exception):
    """An answer that is no success, as the API says it."""

    def __init__(self, code: int, reason: str, message: str, causes: list[Object] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "reason": reason,
            "message": message,
            "code": code,
            "metadata": {},
            "details": {"causes": causes} if causes else {},
        }


class GoneAway(Exception):
    """The connection ends without an answer."""


@dataclass
class Stored:
    object: Object
    owners: Owners


@dataclass
class ApiServer:
    """The server's state; `serving` makes it answer."""

    objects: dict[Key, Stored] = field(default_factory=dict)
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    """Pairs of verb and plural that the client may not do, e.g. ("create", "secrets")."""
    without: set[str] = field(default_factory=set)
    """API versions that this cluster lacks."""
    flags: set[str] = field(default_factory=set)
    """What Knative is told to let through, as in `config-features`."""
    obstacles: list[Callable[[str, Key], None]] = field(default_factory=list)
    """Asked before each request, by verb and place; they raise Refusal or GoneAway."""
    controllers: list[Callable[[Object], Object | None]] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    """Answers by path, e.g. of a pod through the API's proxy."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """All that was asked: verb and plural."""
    version: int = 0
    history: list[tuple[int, str, Key, Object]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    url: str = ""

    # ---- For tests ----

    def names(self, api_version: str, plural: str, namespace: str = "rekindle") -> set[str]:
        return {key.name for key in self.objects if key[:3] == (api_version, plural, namespace)}

    def get(self, api_version: str, plural: str, name: str, namespace: str = "rekindle") -> Object:
        return self.objects[Key(api_version, plural, namespace, name)].object

    def secret(self, name: str, namespace: str = "rekindle") -> dict[str, str]:
        """What a pod finds in a Secret."""
        data = self.get("v1", "secrets", name, namespace)["data"]
        return {key: base64.b64decode(text).decode() for key, text in data.items()}

    def put(self, one: Object, manager: str = "test") -> None:
        """An object, as a controller or a person writes it; its status too."""
        with self.changed:
            self._write(
                self.key_of(one),
                one,
                lambda live, owners: ownership.update(live, one, owners, manager),
                status=one.get("status"),
            )

    # ---- Verbs ----

    def list(self, key: Key) -> Object:
        wanted = [one.object for at, one in self.objects.items() if _within(at, key)]
        kind = self._kind(key)
        return {
            "kind": f"{kind}List",
            "apiVersion": key.api_version,
            "metadata": {"resourceVersion": str(self.version)},
            "items": copy.deepcopy(wanted),
        }

    def read(self, key: Key) -> Object:
        if key not in self.objects:
            raise Refusal(404, "NotFound", f'{key.plural} "{key.name}" not found')
        return self.objects[key].object

    def create(self, key: Key, one: Object, manager: str, dry_run: bool) -> Object:
        key = key._replace(name=one["metadata"]["name"])
        if key in self.objects:
            raise Refusal(409, "AlreadyExists", f'{key.plural} "{key.name}" already exists')
        return self._write(
            key, one, lambda live, owners: ownership.update(live, one, owners, manager), dry_run
        )

    def replace(self, key: Key, one: Object, manager: str, dry_run: bool) -> Object:
        if one["metadata"].get("resourceVersion") not in (
            None,
            self.read(key)["metadata"]["resourceVersion"],
        ):
            raise Refusal(409, "Conflict", f"Operation cannot be fulfilled on {key.plural} {key.name!r}")
        return self._write(
            key, one, lambda live, owners: ownership.update(live, one, owners, manager), dry_run
        )

    def apply(self, key: Key, one: Object, manager: str, force: bool, dry_run: bool) -> Object:
        if "managedFields" in one["metadata"]:
            raise Refusal(400, "BadRequest", "metadata.managedFields must be nil")
        if not manager:
            raise Refusal(
                400, "BadRequest", "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value"
            )
        try:
            return self._write(
                key, one, lambda live, owners: ownership.apply(live, one, owners, manager, force), dry_run
            )
        except Conflicts as found:
            raise _conflict(found, one["apiVersion"]) from found
        except ValueError as error:
            raise Refusal(500, "InternalError", f"failed to create typed patch object: {error}") from error

    def delete(self, key: Key) -> Object:
        gone = self.read(key)
        del self.objects[key]
        self._happened("DELETED", key, gone)
        if key.plural == "namespaces":
            for other in [at for at in self.objects if at.namespace == key.name]:
                self.delete(other)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    # ---- Inside ----

    def _write(
        self,
        key: Key,
        one: Object,
        make: Callable[[Object | None, Owners], Object],
        dry_run: bool = False,
        status: Object | None = None,
    ) -> Object:
        namespaces = {at.name for at in self.objects if at.plural == "namespaces"}
        if key.namespace and key.namespace not in namespaces:
            raise Refusal(404, "NotFound", f'namespaces "{key.namespace}" not found')
        stored = self.objects.get(key)
        live = stored.object if stored else None
        owners = copy.deepcopy(stored.owners) if stored else Owners()
        new = make(copy.deepcopy(live), owners)
        try:
            new = admitted(new, live, self.flags)
        except Invalid as error:
            raise Refusal(error.code, error.reason, error.message) from error
        if kept := status or (live or {}).get("status"):
            new["status"] = kept
        self._mark(new, live, owners, key)
        if live is not None and live == new | {"metadata": live["metadata"]} and _about(live) == _about(new):
            return copy.deepcopy(live)
        if not dry_run:
            self._keep(key, new, owners)
            self._control(key)
        return copy.deepcopy(new)

    def _mark(self, new: Object, live: Object | None, owners: Owners, key: Key) -> None:
        """What the server says of an object."""
        about, before = new["metadata"], (live or {"metadata": {}})["metadata"]
        for name in ("uid", "creationTimestamp", "resourceVersion"):
            about.pop(name, None)
        about["managedFields"] = owners.managed_fields(key.api_version)
        about["uid"] = before.get("uid") or str(uuid.uuid4())
        about["creationTimestamp"] = "2026-11-22T10:00:00Z"
        if (count := generation(new, live)) is not None:
            about["generation"] = count

    def _keep(self, key: Key, new: Object, owners: Owners) -> None:
        event = "MODIFIED" if key in self.objects else "ADDED"
        new["metadata"]["resourceVersion"] = str(self.version + 1)
        self.objects[key] = Stored(new, owners)
        self._happened(event, key, new)

    def _control(self, key: Key) -> None:
        """Controllers write what they say of an object by another endpoint, under a name of their own."""
        for controller in self.controllers:
            stored = self.objects[key]
            status = controller(stored.object)
            if status is not None and status != stored.object.get("status"):
                new = {**copy.deepcopy(stored.object), "status": status}
                ownership.update(stored.object, new, stored.owners, "controller", "status")
                new["metadata"]["managedFields"] = stored.owners.managed_fields(key.api_version)
                self._keep(key, new, stored.owners)

    def _happened(self, event: str, key: Key, one: Object) -> None:
        self.version += 1
        self.history.append((self.version, event, key, copy.deepcopy(one)))
        self.changed.notify_all()

    def _kind(self, key: Key) -> str:
        return next(kind for kind, (plural, _) in KINDS[key.api_version].items() if plural == key.plural)

    def key_of(self, one: Object) -> Key:
        plural, namespaced = KINDS[one["apiVersion"]][one["kind"]]
        about = one["metadata"]
        return Key(one["apiVersion"], plural, about["namespace"] if namespaced else "", about["name"])


def _about(one: Object) -> Object:
    """What an object's metadata say, without what changes by being written."""
    return {key: value for key, value in one["metadata"].items() if key != "resourceVersion"}


def _within(at: Key, place: Key) -> bool:
    return at[:2] == place[:2] and place.namespace in ("", at.namespace)


def _conflict(found: Conflicts, api_version: str) -> Refusal:
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f"conflict with {_said(manager, api_version)}",
            "field": path,
        }
        for (path, _), manager in zip(found.found, found.managers, strict=True)
    ]
    said = "; ".join(f"{one['message']}: {one['field']}" for one in causes)
    plural = "conflict" if len(causes) == 1 else "conflicts"
    return Refusal(409, "Conflict", f"Apply failed with {len(causes)} {plural}: {said}", causes)


def _said(manager: Manager, api_version: str) -> str:
    """Of an apply only the name is said."""
    said = f'"{manager.name}"'
    if manager.subresource:
        said += f' with subresource "{manager.subresource}"'
    return said if manager.operation == "Apply" else f"{said} using {api_version} at 2026-11-22T10:00:00Z"


# ---- HTTP ----


@contextmanager
def serving(server: ApiServer) -> Iterator[ApiServer]:
    """Answer at a free port of this machine until the block ends."""

    class Handler(_Handler):
        api = server

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def kubeconfig(server: ApiServer, file: Path) -> Path:
    """A kubeconfig whose contexts `test` and `other` are this server."""
    contexts = [{"name": name, "context": {"cluster": "test", "user": "test"}} for name in ("test", "other")]
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": server.url}}],
        "users": [{"name": "test", "user": {"token": "a-token"}}],
        "contexts": contexts,
    }
    file.write_text(json.dumps(config))
    return file


class _Handler(BaseHTTPRequestHandler):
    """One request of the client."""

    api: ApiServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer("get")

    def do_POST(self) -> None:
        self._answer("create")

    def do_PUT(self) -> None:
        self._answer("update")

    def do_PATCH(self) -> None:
        self._answer("patch")

    def do_DELETE(self) -> None:
        self._answer("delete")

    def _answer(self, verb: str) -> None:
        address = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        if (text := self.api.texts.get(address.path)) is not None:
            return self._send(200, text.encode(), "text/plain")
        try:
            found = discovery(self.api, address.path)
            if found is None:
                key = self._key(address.path)
                if verb == "get" and query.get("watch"):
                    return self._watch(key, query)
                found = self._do(verb, key, query, body)
            self._send_json(201 if verb == "create" else 200, found)
        except Refusal as refused:
            self._send_json(refused.code, refused.body)
        except GoneAway:
            self.close_connection = True

    def _do(self, verb: str, key: Key, query: dict[str, str], body: Object) -> Object:
        api, dry_run = self.api, query.get("dryRun") == "All"
        manager = query.get("fieldManager") or (
            "" if verb == "patch" else self.headers["User-Agent"].partition("/")[0]
        )
        verb = "list" if verb == "get" and not key.name else verb
        api.requests.append((verb, key.plural))
        if (verb, key.plural) in api.forbidden:
            raise forbidden(verb, key)
        for obstacle in api.obstacles:
            obstacle(verb, key)
        with api.changed:
            if verb == "list":
                found = api.list(key)
                found["items"] = [
                    one for one in found["items"] if _selected(one, query.get("labelSelector", ""))
                ]
                return found
            if verb == "get":
                return api.read(key)
            if verb == "create":
                return api.create(key, body, manager, dry_run)
            if verb == "update":
                return api.replace(key, body, manager, dry_run)
            if verb == "delete":
                return api.delete(key)
            if self.headers["Content-Type"] != "application/apply-patch+yaml":
                raise Refusal(415, "UnsupportedMediaType", self.headers["Content-Type"])
            return api.apply(key, body, manager, query.get("force", "").lower() == "true", dry_run)

    def _key(self, path: str) -> Key:
        """`/apis/apps/v1/namespaces/n/deployments/x` and its like."""
        parts = path.strip("/").split("/")
        version, rest = ("v1", parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        if version not in KINDS or version in self.api.without or len(rest) > 2:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        return Key(version, rest[0], namespace, rest[1] if len(rest) > 1 else "")

    def _watch(self, key: Key, query: dict[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        deadline = time.monotonic() + float(query.get("timeoutSeconds", 60))
        seen = int(query.get("resourceVersion") or 0)
        try:
            while (left := deadline - time.monotonic()) > 0:
                with self.api.changed:
                    news = [one for one in self.api.history if one[0] > seen and _within(one[2], key)]
                    if not news:
                        self.api.changed.wait(left)
                for version, event, _, one in news:
                    seen = version
                    self._send_chunk(json.dumps({"type": event, "object": one}).encode() + b"\n")
            self._send_chunk(b"")
        except (BrokenPipeError, ConnectionResetError):
            return  # the client has heard enough

    def _send_chunk(self, body: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(body), body))
        self.wfile.flush()

    def _send_json(self, code: int, body: Object) -> None:
        self._send(code, json.dumps(body).encode(), "application/json")

    def _send(self, code: int, body: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def discovery(api: ApiServer, path: str) -> Object | None:
    """What the server says of itself; None if the path is about objects."""
    versions = [one for one in KINDS if one not in api.without]
    if path == "/version":
        return {"major": "1", "minor": "36", "gitVersion": "v1.36.2"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"kind": "APIGroupList", "groups": [_group(one) for one in versions if "/" in one]}
    version = path.removeprefix("/apis/").removeprefix("/api/")
    if version not in versions:
        return None
    return {
        "kind": "APIResourceList",
        "groupVersion": version,
        "resources": [
            {
                "name": plural,
                "singularName": kind.lower(),
                "kind": kind,
                "namespaced": namespaced,
                "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
            }
            for kind, (plural, namespaced) in KINDS[version].items()
        ],
    }


def _group(api_version: str) -> Object:
    group, _, version = api_version.partition("/")
    about = {"groupVersion": api_version, "version": version}
    return {"name": group, "versions": [about], "preferredVersion": about}


def forbidden(verb: str, key: Key) -> Refusal:
    """As RBAC says it."""
    group, _, _ = key.api_version.rpartition("/")
    what = f"{key.plural}{'.' if group else ''}{group}{f' {json.dumps(key.name)}' if key.name else ''}"
    said = f'User "test" cannot {verb} resource "{key.plural}" in API group "{group}"'
    said += f' in the namespace "{key.namespace}"' if key.namespace else " at the cluster scope"
    return Refusal(403, "Forbidden", f"{what} is forbidden: {said}")


def _selected(one: Object, selector: str) -> bool:
    labels = one["metadata"].get("labels", {})
    for part in filter(None, selector.split(",")):
        name, equals, value = part.partition("=")
        if (labels.get(name) != value) if equals else (name not in labels):
            return False
    return True
