"""Kubernetes mechanics: client, reflector, store, informer, workqueue, lease, apply, finalizers, conditions, events.

Nothing is imported here, so that each role loads only what it needs; import from the modules. No word of any database
occurs in this package.
"""
