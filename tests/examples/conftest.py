"""Fixtures of the demo's tests."""

from tests.examples.demo_base import base as base
