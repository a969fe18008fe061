"""Backups and logs in an object store, neutral to the engine (DESIGN section 8).

`Repository` is the way in; everything that callers need is exported here. The format is versioned and self-describing: see
`yoban.repository.layout` for keys and `yoban.repository.codec` for what an object looks like.
"""

from yoban.repository.access import RetryPolicy
from yoban.repository.backups import Backups
from yoban.repository.catalog import Catalog
from yoban.repository.codec import FORMAT
from yoban.repository.facade import Repository
from yoban.repository.holds import Hold
from yoban.repository.identity import Identity, RepositoryRef, discover
from yoban.repository.layout import Layout
from yoban.repository.manifest import BackupSummary, Manifest
from yoban.repository.marks import Mark
from yoban.repository.restore import BackupReader, ReaderOptions, RestoreProgress
from yoban.repository.retention import RetentionDone, RetentionPlan, RetentionPolicy, plan_retention
from yoban.repository.segments import LogStore, PutResult, SegmentInfo, StoredSegment
from yoban.repository.survey import BackupUse, Gap, Survey, gaps_in_words, survey
from yoban.repository.tail import Cover, TailChunk, TailStore, cover
from yoban.repository.terms import TermRecord, forks_of
from yoban.repository.verify import Finding, FindingKind, VerifyReport
from yoban.repository.writer import BackupMeta, BackupProgress, BackupWriter, WriterOptions

__all__ = [
    "FORMAT",
    "BackupMeta",
    "BackupProgress",
    "BackupReader",
    "BackupSummary",
    "BackupUse",
    "BackupWriter",
    "Backups",
    "Catalog",
    "Cover",
    "Finding",
    "FindingKind",
    "Gap",
    "Hold",
    "Identity",
    "Layout",
    "LogStore",
    "Manifest",
    "Mark",
    "PutResult",
    "ReaderOptions",
    "Repository",
    "RepositoryRef",
    "RestoreProgress",
    "RetentionDone",
    "RetentionPlan",
    "RetentionPolicy",
    "RetryPolicy",
    "SegmentInfo",
    "StoredSegment",
    "Survey",
    "TailChunk",
    "TailStore",
    "TermRecord",
    "VerifyReport",
    "WriterOptions",
    "cover",
    "discover",
    "forks_of",
    "gaps_in_words",
    "plan_retention",
    "survey",
]
