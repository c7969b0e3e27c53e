"""Datasets: uploaded in parts, kept as immutable versions, derived, paged through."""
