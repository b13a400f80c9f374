"""Read pools and targets as streams of documents, in any format, from any place."""

from curate.documents.amounts import rows_of_all, rows_of_each
from curate.documents.check import FirstRows, check_fields, look
from curate.documents.holdout import HELDOUT, Split, hold_out
from curate.documents.overlap import Overlap
from curate.documents.pool import Pool, identity, open_pool, refuse_changed
from curate.documents.records import documents, hash_content
from curate.documents.rows import columns_metadata, estimated_rows, json_lines, raw_tables, rows
from curate.documents.sample import draw_sample, estimated_size, sample_rows
from curate.documents.shards import DAMAGED, BadRow, DamagedShard, Shard
from curate.documents.stretches import Course, Mark, Marks
from curate.documents.target import Target, read_target
from curate.fields import Fields

__all__ = [
    "DAMAGED",
    "HELDOUT",
    "BadRow",
    "Course",
    "DamagedShard",
    "Fields",
    "FirstRows",
    "Mark",
    "Marks",
    "Overlap",
    "Pool",
    "Shard",
    "Split",
    "Target",
    "check_fields",
    "columns_metadata",
    "documents",
    "draw_sample",
    "estimated_rows",
    "estimated_size",
    "hash_content",
    "hold_out",
    "identity",
    "json_lines",
    "look",
    "open_pool",
    "raw_tables",
    "read_target",
    "refuse_changed",
    "rows",
    "rows_of_all",
    "rows_of_each",
    "sample_rows",
]
