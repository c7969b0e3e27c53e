"""`rekindle deploy` and `rekindle status`: an installation on a cluster with Knative Serving."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from rekindle.cli import output
from rekindle.cli.output import AsJson
from rekindle.cli.progress import item_bar

if TYPE_CHECKING:
    from rekindle.cluster.api import Api
    from rekindle.cluster.apply import Applied
    from rekindle.cluster.deploy import Deployed, Way
    from rekindle.cluster.render import Manifest
    from rekindle.cluster.status import Status

Context = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Context of the kubeconfig.", show_default="the current one"),
]
Namespace = Annotated[str, typer.Option(envvar="REKINDLE_NAMESPACE", help="Where the installation lives.")]
Registry = Annotated[
    str | None,
    typer.Option(
        metavar="PREFIX",
        help="Where the images are, in place of dev.local/rekindle.",
        show_default="where the gateway's are",
    ),
]
Render = Annotated[bool, typer.Option("--render", help="Print the manifests; no cluster is asked.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Let the cluster check everything and change nothing.")
]
Diff = Annotated[bool, typer.Option("--diff", help="Print how live objects would change; change nothing.")]
Overlay = Annotated[
    str,
    typer.Option(
        metavar="base|gpu|ha|DIR", help="Which variant of the manifests, or a kustomization of one's own."
    ),
]
NAMESPACE, BASE = "rekindle", "base"


def deploy(
    context: Context = None,
    namespace: Namespace = NAMESPACE,
    overlay: Overlay = BASE,
    registry: Registry = None,
    render: Render = False,
    dry_run: DryRun = False,
    diff: Diff = False,
    wait: Annotated[
        int,
        typer.Option(metavar="SECONDS", min=0, help="How long to wait until all is ready; 0 = not at all."),
    ] = 600,
    as_json: AsJson = False,
) -> None:
    """Install or update Rekindle on a cluster with Knative Serving."""
    from rekindle.cluster import manifests
    from rekindle.cluster.models import registry_in_use
    from rekindle.cluster.place import installation

    folder = manifests.overlay(overlay)
    objects = installation(folder, namespace, registry)
    if render:
        print_manifests(objects)
        return
    api = connect(context)
    if registry is None:
        objects = installation(folder, namespace, registry_in_use(api, namespace))
    keys: list[str] = []
    try:
        _deploy(api, objects, namespace, keys, dry_run, diff, wait, as_json)
    finally:
        for key in keys:  # nobody is told again, whatever has become of the rest
            typer.echo(f"API key, shown this once: {key}", err=True)


def _deploy(
    api: "Api",
    objects: "list[Manifest]",
    namespace: str,
    keys: list[str],
    dry_run: bool,
    diff: bool,
    wait: int,
    as_json: bool,
) -> None:
    """`keys` holds the first API key from when it is made until it is printed."""
    from rekindle.cluster.deploy import deploy as deploy_all
    from rekindle.cluster.deploy import way

    with item_bar("deploying", quiet=as_json) as bar:
        done = deploy_all(api, objects, namespace, bar.now, keys.append, dry_run=dry_run or diff)
    if diff:
        print_differences(done.applied)
        print_stays(done.stays)
        return
    if not as_json:
        _show_deployed(done, dry_run)
        keys.clear()
    late = [] if dry_run else wait_for(api, objects, namespace, wait, as_json)
    found = None if dry_run else way(api, namespace)
    outdated = _outdated(api, objects, namespace)
    if as_json:
        output.print_json(
            {**_about_deployed(done), "url": found and found.url, "late": late, "outdated": outdated}
        )
        keys.clear()
    elif found is not None:
        _show_way(found, namespace)
    for base in outdated:
        name = output.plain(base)
        typer.echo(f"{name} runs other images: rekindle models add {name} brings it up to date", err=True)
    end_late(late)


def status(
    context: Context = None,
    namespace: Namespace = NAMESPACE,
    base_url: Annotated[
        str | None,
        typer.Option(
            envvar="REKINDLE_BASE_URL",
            help="Where to ask for activations and backlog.",
            show_default="the gateway's own address",
        ),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="REKINDLE_API_KEY", help="Key to ask for them with.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show services, replicas, work and GPUs, and why something does not scale."""
    from rekindle.cluster.status import Server
    from rekindle.cluster.status import status as ask

    found = ask(connect(context), namespace, Server(base_url, api_key))
    if as_json:
        output.print_json(found)
    else:
        _show_status(found)


# ---- Shared with `models` ----


def connect(context: str | None) -> "Api":
    from rekindle.cluster.api import Api

    return Api.connect(context)


def print_manifests(objects: "Sequence[Manifest]") -> None:
    from rekindle.cluster.render import to_yaml

    typer.echo(to_yaml(list(objects)), nl=False)


def print_differences(applied: "Sequence[Applied]") -> None:
    """As a unified diff; nothing where nothing would change."""
    from rekindle.cluster.apply import difference

    for one in applied:
        if text := difference(one):
            typer.echo("\n".join(output.plain(line) for line in text.splitlines()))


def wait_for(
    api: "Api", objects: "Sequence[Manifest]", namespace: str, seconds: int, quiet: bool
) -> list[str]:
    """What is not ready when the time is over; with no seconds nobody looks."""
    from rekindle.cluster.deploy import wait

    if not seconds:
        return []
    with item_bar("waiting", quiet=quiet) as bar:
        return wait(api, objects, namespace, seconds, bar.now)


def end_late(late: Sequence[str]) -> None:
    """Say what is not ready, and end with 1 if anything is not."""
    for said in late:
        typer.echo(f"not ready: {output.plain(said)}", err=True)
    if late:
        typer.echo("rekindle status says why, as far as the cluster knows", err=True)
        raise typer.Exit(1)


def print_stays(stays: "Sequence[str]") -> None:
    """What there is beyond the manifests."""
    for said in stays:
        typer.echo(output.plain(said), err=True)


def print_applied(applied: "Sequence[Applied]") -> None:
    """What became of each object, and which fields others have set."""
    output.print_table(("kind", "name", ""), ((_kind(one), one.ref.name, one.action) for one in applied))
    for one in applied:
        for held in one.kept:
            typer.echo(f"{one.ref.name}: kept {short(held.field)} as {output.plain(held.manager)} has set it")
        for held in one.taken:
            typer.echo(f"{one.ref.name}: took {short(held.field)} back from {output.plain(held.manager)}")


def _kind(one: "Applied") -> str:
    """Knative's services apart from those of Kubernetes."""
    return f"Knative {one.ref.kind}" if ".knative.dev/" in one.ref.api_version else one.ref.kind


def short(field: str) -> str:
    """A path in an object without what all of them have."""
    return output.plain(field.removeprefix(".spec.template.metadata.annotations.").lstrip("."))


def about_applied(one: "Applied") -> dict[str, object]:
    """The same for programs."""
    return {
        "kind": one.ref.kind,
        "name": one.ref.name,
        "action": one.action,
        "kept": [held._asdict() for held in one.kept],
        "taken": [held._asdict() for held in one.taken],
    }


# ---- Output ----


def _show_deployed(done: "Deployed", dry_run: bool) -> None:
    made = done.secrets
    print_applied(done.applied)
    if made.names:
        typer.echo(f"secrets {'to be ' if dry_run else ''}made: {', '.join(made.names)}")
    if made.key is not None:
        typer.echo(f"API key, shown this once: {made.key}")
    print_stays(done.stays)


def _show_way(found: "Way", namespace: str) -> None:
    """To the gateway, whose address only pods can resolve where Knative has no domain."""
    if found.url is not None and ".svc." not in found.url:
        typer.echo(
            f"reach it with: export REKINDLE_BASE_URL={output.plain(found.url)} REKINDLE_API_KEY=tml-…"
        )
    elif found.revision is not None:
        pods = f"deployment/{output.plain(found.revision)}-deployment"
        typer.echo(f"reach it with: kubectl port-forward -n {namespace} {pods} 8000:8080")


def _about_deployed(done: "Deployed") -> dict[str, object]:
    made = done.secrets
    objects = [about_applied(one) for one in done.applied]
    return {"objects": objects, "secrets": made.names, "key": made.key, "stays": done.stays}


def _outdated(api: "Api", objects: "list[Manifest]", namespace: str) -> list[str]:
    """Base models with images of another version than the gateway's."""
    from rekindle.cluster.models import outdated
    from rekindle.cluster.place import GATEWAY
    from rekindle.cluster.render import containers

    gateways = [one for one in objects if one["metadata"]["name"] == GATEWAY]
    images = [each["image"] for one in gateways for each in containers(one)]
    return outdated(api, namespace, images[0]) if images else []


def _show_status(found: "Status") -> None:
    output.print_table(
        (
            "service",
            "base model",
            "ready",
            "replicas",
            "bounds",
            "activations",
            "backlog",
            "GPUs",
            "revision",
        ),
        (
            (
                one.name,
                one.base,
                one.ready,
                f"{one.actual} of {one.desired}",
                f"{one.min_scale}–{one.max_scale or '∞'}",
                one.activations,
                one.backlog,
                one.gpus,
                one.revision,
            )
            for one in found.services
        ),
    )
    for name, reason in found.workloads.items():
        typer.echo(f"{name}: {output.plain(reason.removeprefix(f'{name}: ')) if reason else 'ready'}")
    for one in found.services:
        for reason in one.reasons:
            typer.echo(f"{one.name}: {output.plain(reason)}")
    for said in found.unknown:
        typer.echo(f"not known: {output.plain(said)}", err=True)
    output.print_fields([("url", found.url), ("GPUs", found.gpus)])
