"""Yoban, the night watch: a Kubernetes operator that runs databases."""

__version__ = "0.1.0"
