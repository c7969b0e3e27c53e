"""A Knative Service: the revisions that its templates have made, and to which of them requests go.

Every change of the template makes a revision. A route leads to revisions that are ready, or stays as it is: by percent,
or under a tag's own host name. A revision that the route does not name is unreachable, and keeps no pods. Sources:
knative/serving pkg/reconciler/{configuration,route,labeler,service}. Old revisions are not collected.
"""

import random
from collections.abc import Callable
from itertools import chain
from typing import Any

from tests.fake_knative.activator import Activator, refuse
from tests.fake_knative.pod import Pod
from tests.fake_knative.revision import UP, Condition, Object, Revision, condition

LATEST: list[Object] = [{"latestRevision": True, "percent": 100}]


class Service:
    """E.g. `train-tiny-1a2b3c`; an ASGI application."""

    def __init__(
        self, name: str, make: Callable[[Object], Revision], patience: float, rng: random.Random
    ) -> None:
        """`make` makes a revision of its object; `patience`: the activator's."""
        self.name = name
        self._make, self._patience, self._rng = make, patience, rng
        self._activators: dict[str, Activator] = {}
        self._template: Object | None = None
        self._generation = 0
        self._route: Condition = ("Unknown", "RevisionMissing", "")
        self.revisions: dict[str, Revision] = {}
        """By name, in the order in which they were made."""
        self.latest_ready: str | None = None
        self.traffic: list[Object] = []
        """Where requests go now."""

    # ---- What is wanted ----

    def follow(self, one: Object) -> None:
        """Make a revision of a template that is new, and send requests where the Service says."""
        template, self._generation = one["spec"]["template"], one["metadata"]["generation"]
        if template != self._template:
            self._template = template
            self._create(one, template)
        self._settle(one["spec"].get("traffic") or LATEST)

    def _create(self, one: Object, template: Object) -> None:
        about = template.get("metadata", {})
        name = about.get("name") or f"{self.name}-{len(self.revisions) + 1:05d}"
        assert name not in self.revisions, f"revision {name} is there already"
        made = {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Revision",
            "metadata": {
                "name": name,
                "namespace": one["metadata"]["namespace"],
                "labels": {**about.get("labels", {}), "serving.knative.dev/service": self.name},
                "annotations": about.get("annotations", {}),
            },
            "spec": template["spec"],
        }
        revision = self._make(made)
        self._activators[name] = Activator(revision, self._patience)
        self.revisions[name] = revision

    def _settle(self, wanted: list[Object]) -> None:
        names = list(self.revisions)
        newer = names[names.index(self.latest_ready) if self.latest_ready else 0 :]
        self.latest_ready = next(filter(self._is_ready, reversed(newer)), self.latest_ready)
        self._route = self._assign(wanted)
        named = {one.get("revisionName") for one in chain(wanted, self.traffic)}
        if any(one.get("latestRevision") for one in wanted):
            named.add(names[-1])
        for name, revision in self.revisions.items():
            revision.reachable = name in named

    def _assign(self, wanted: list[Object]) -> Condition:
        """Change the traffic if all that is wanted is there; the condition of the route."""
        shares = [{"revisionName": self.latest_ready, **one} for one in wanted]
        for name in (one["revisionName"] for one in shares):
            if name is None:
                return "Unknown", "RevisionMissing", f'Configuration "{self.name}" is waiting for a Revision.'
            if name not in self.revisions:
                return "False", "RevisionMissing", f'Revision "{name}" referenced in traffic not found.'
            if not self._is_ready(name):
                status = self.revisions[name].readiness()[0]
                return status, "RevisionMissing", f'Revision "{name}" is not ready.'
        self.traffic = shares
        return UP

    def _is_ready(self, name: str) -> bool:
        return self.revisions[name].readiness() == UP

    # ---- Requests ----

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        shares = self._shares(dict(scope["headers"]).get(b"host", b"").decode())
        if not shares:
            return await refuse(send, 404, "no route: the service has not been ready yet")
        names, percents = zip(*((one["revisionName"], one["percent"]) for one in shares), strict=True)
        (name,) = self._rng.choices(names, percents)
        await self._activators[name](scope, receive, send)

    def _shares(self, host: str) -> list[Object]:
        """A tag's own host leads to its revision alone: `next-reward.rekindle…`."""
        for one in self.traffic:
            if "tag" in one and host.startswith(f"{one['tag']}-{self.name}."):
                return [{**one, "percent": 100}]
        return [one for one in self.traffic if one.get("percent")]

    @property
    def answers(self) -> list[tuple[str, int, bytes]]:
        return list(chain.from_iterable(one.answers for one in self._activators.values()))

    def forget(self) -> None:
        """What was answered until now."""
        for activator in self._activators.values():
            activator.answers.clear()

    def answered(self, name: str) -> list[tuple[str, int, bytes]]:
        """By one revision."""
        return self._activators[name].answers

    def break_one(self) -> bool:
        """Break one open request off in the middle; whether there was one."""
        activators = self._rng.sample(list(self._activators.values()), len(self._activators))
        return any(one.break_one(self._rng.choice) for one in activators)

    # ---- Pods ----

    @property
    def pods(self) -> list[Pod]:
        return [pod for revision in self.revisions.values() for pod in revision.pods]

    @property
    def leaving(self) -> list[Pod]:
        return [pod for revision in self.revisions.values() for pod in revision.leaving]

    def scale(self, elapsed: float) -> None:
        for revision in self.revisions.values():
            revision.scale(elapsed)

    def remove(self, pod: Pod) -> None:
        next(one for one in self.revisions.values() if pod in one.pods).remove(pod)

    async def end(self) -> None:
        for name, activator in self._activators.items():
            await activator.close()
            await self.revisions[name].end()

    # ---- Status ----

    def status(self, url: str) -> Object:
        latest = list(self.revisions)[-1]
        status, _, said = self.revisions[latest].readiness()
        failed = ("False", "RevisionFailed", f'Revision "{latest}" failed with message: {said}.')
        made: Condition = failed if status == "False" else (status, "", "")
        unhappy = [one for one in (made, self._route) if one != UP]
        found = {
            "observedGeneration": self._generation,
            "url": url,
            "address": {"url": url},
            "latestCreatedRevisionName": latest,
            "latestReadyRevisionName": self.latest_ready,
            "traffic": self.traffic,
            "conditions": [
                condition("Ready", min(unhappy, default=UP)),  # False before Unknown
                condition("ConfigurationsReady", made),
                condition("RoutesReady", self._route),
            ],
        }
        return {name: value for name, value in found.items() if value}
