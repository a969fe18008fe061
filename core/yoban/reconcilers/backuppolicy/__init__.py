"""Reconciles BackupPolicies: keeps what they ask for true of each Database that names them."""

from yoban.reconcilers.backuppolicy.reconcile import BackupPolicyReconciler, build

__all__ = ["BackupPolicyReconciler", "build"]
