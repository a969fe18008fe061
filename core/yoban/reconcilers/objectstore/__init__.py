"""Reconciles ObjectStores: checks that they can be used, makes buckets, and removes those that it made."""

from yoban.reconcilers.objectstore.reconcile import ObjectStoreReconciler, build

__all__ = ["ObjectStoreReconciler", "build"]
