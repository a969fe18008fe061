"""Reconciles Backups: has an instance make each, follows it, and keeps the objects in step with the repository."""

from yoban.reconcilers.backup.reconcile import BackupReconciler, build

__all__ = ["BackupReconciler", "build"]
