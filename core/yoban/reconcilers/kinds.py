"""Our kinds as the API server serves them."""

from __future__ import annotations

from yoban.kube.resource import Resource
from yoban.model.resource import GROUP, VERSION

DATABASE = Resource(GROUP, VERSION, "databases", "Database")
OBJECT_STORE = Resource(GROUP, VERSION, "objectstores", "ObjectStore")
BACKUP_POLICY = Resource(GROUP, VERSION, "backuppolicies", "BackupPolicy")
BACKUP = Resource(GROUP, VERSION, "backups", "Backup")
