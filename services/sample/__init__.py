"""Generates tokens with any adapter version of one base model."""
