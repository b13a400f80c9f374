"""The log of a folder: a line per session. Times stand only here, so that equal folders have equal bytes.

log.jsonl           the sessions', the newest last
log-I-of-N.jsonl    those of one of several jobs, until the last of them has ended
"""

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from curate.folders.folder import Folder, put_text
from curate.secrets import addresses_without_secrets

LOG = "log.jsonl"
_OF_JOB = re.compile(r"log-.*\.jsonl")


class Log:
    """What sessions wrote about themselves, and the lines of this one; `job` names one of several that share it."""

    def __init__(self, folder: Folder, job: str | None = None) -> None:
        self._folder = folder
        self._name = LOG if job is None else f"log-{job}.jsonl"
        self._begun: int | None = None
        """Where the line stands that this session has begun."""

    @property
    def is_shared(self) -> bool:
        """Whether several jobs write the folder at the same time."""
        return self._name != LOG

    @property
    def is_prepared(self) -> bool:
        """Whether a job has done what is done once for all jobs with these settings."""
        return any("prepared" in line for line in self.lines())

    def begin(self, **described: Any) -> None:
        """Append a line that this session has begun, which the one at its end replaces: a killed one leaves it."""
        lines = [line for line in self._read(self._name) if not self.is_shared or "started" not in line]
        self._begun = len(lines)
        self._put([*lines, {"started": round(time.time()), **self._where(), **described}])

    def end(self, line: Mapping[str, Any]) -> None:
        """Append a line about this session, which has ended."""
        lines = self._read(self._name)
        if self._begun is not None:
            del lines[self._begun]
        self._put([*lines, {"ended": round(time.time()), **self._where(), **line}])
        self._begun = None

    def prepared(self) -> None:
        """Append that this job has done what is done once for all."""
        self._put([*self._read(self._name), {"prepared": round(time.time())}])

    def lines(self) -> list[dict[str, Any]]:
        """Return all lines, the newest last, and then those of jobs that share the folder."""
        return [line for name in self._names() for line in self._read(name)]

    def gather(self) -> None:
        """Make one log of those of all jobs."""
        if of_jobs := self._names()[1:]:
            lines, self._name = self.lines(), LOG
            self._put(sorted(lines, key=lambda line: max(line.get(w, 0) for w in ("started", "prepared", "ended"))))
            for name in of_jobs:
                self._folder.remove(name)

    def remove(self) -> None:
        """Remove every line, those of other jobs among them."""
        for name in self._names():
            self._folder.remove(name)

    def _names(self) -> list[str]:
        return [LOG, *(name for name in self._folder.list() if _OF_JOB.fullmatch(name))]

    def _read(self, name: str) -> list[dict[str, Any]]:
        lines = self._folder.read(name).splitlines() if self._folder.exists(name) else []
        return [json.loads(line) for line in lines]

    def _put(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write the log anew: nothing is appended, so that a kill leaves whole lines, and an object store will do."""
        shown = map(addresses_without_secrets, lines)
        put_text(self._folder, self._name, "".join(json.dumps(line) + "\n" for line in shown))

    def _where(self) -> dict[str, str]:
        """Return the one thing beside times that differs between equal folders: where addresses are looked up from.

        The first line that has it says where those of the record were given.
        """
        place = os.path.abspath(self._folder.root) if self._folder.is_here else self._folder.address
        return {"working_folder": os.getcwd(), "folder": place}
