"""Rekindle on a cluster: what `rekindle deploy`, `rekindle models` and `rekindle status` do.

names.py      how services of a base model are called
manifests.py  where the manifests are: in the wheel, or in the checkout
render.py     a kustomization as a list of objects
place.py      the same for one installation: its namespace, its registry
api.py        the cluster's API, with errors that say what to do
apply.py      server-side apply that leaves alone what others have set
secrets.py    passwords and keys, made once
inventory.py  what deployments have made, and what of it goes
deploy.py     all of it in order, and when it is ready
models.py     the services of a base model: added, listed, removed
remembered.py options of a base model, kept with its services
status.py     how the services fare
reasons.py    why one of them does not scale

Nothing here needs `kubectl` or `kustomize`. The extra `cluster` brings the client.
"""
