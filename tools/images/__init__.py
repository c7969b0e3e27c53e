"""Container images: what each holds, and two ways to make them.

catalog.py    the images: extra, Dockerfile, command; what they all have in common
pins.py       exact versions of what goes into them, from pyproject.toml: `task pins`
engine.py     with docker, buildah or podman, from the Dockerfiles
content.py    without any of them: the trees of /opt/venv and /app, for the Python of a root file system
layers.py     trees to layers, the same bytes for the same trees
layout.py     layers to an OCI image layout
__main__.py   `task images`
"""
