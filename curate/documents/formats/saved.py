"""One Arrow file of a `save_to_disk` folder: the folder's state.json tells, not the name."""

from dataclasses import replace

from curate.documents.formats import arrow

FORMAT = replace(arrow.FORMAT, suffixes=())
