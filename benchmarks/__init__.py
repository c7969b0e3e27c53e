"""Measurements of Rekindle, and the results that the README shows."""
