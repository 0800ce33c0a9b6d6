"""Baselines behind an API."""
