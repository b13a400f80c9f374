"""What is done to the spans of a pool: scoring and sketching, as values that load a workspace wherever they are opened.

A process that opens one finds all that was fitted in the run's folder, where the driver's own preparation has left it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from curate import methods
from curate.errors import CurateError
from curate.executors.chunks import ChunkEncoder
from curate.executors.contract import Chunk, PartTables
from curate.executors.tables import part_tables
from curate.folders.folder import Folder
from curate.folders.part_folder import PartFolder
from curate.gradients.documents import Batching
from curate.gradients.scored import Scored
from curate.methods.contract import Scorer, Sketcher
from curate.methods.shared.states import fingerprints_of, needed_checkpoints
from curate.pipeline.request import Request
from curate.pipeline.taking import Taking, decided
from curate.pipeline.workspace import Workspace, load, make_batching, open_workspace, overlap_with
from curate.progress import Silent
from curate.proxies.token_texts import TokenTexts
from curate.proxies.tokens import Encoded, Encoder
from curate.scores.run import Run
from curate.stores.indexing import Sketching, sketcher_of
from curate.stores.settings import IndexSettings
from curate.stores.store import Store


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Scores chunks, with a model in memory."""

    encode: ChunkEncoder
    scorer: Scorer
    batching: Batching
    columns: Sequence[str]
    texts: TokenTexts
    taking: Taking | None = None

    @classmethod
    def of(cls, request: Request, workspace: Workspace, scorer: Scorer, run: Run) -> "Scoring":
        """Return what scores a request's documents into a run in this process."""
        other = decided(run, request.narrowing)
        return cls(
            encode=ChunkEncoder(encoder=workspace.encoder, overlap=overlap_with(request.target)),
            scorer=scorer,
            batching=workspace.batching,
            columns=request.columns,
            texts=TokenTexts(workspace.encoder.tokenizer),
            taking=None if other is None else Taking(run=other, columns=request.columns),
        )

    def __call__(self, chunk: Chunk) -> PartTables:
        """Return a chunk's scores, and the rows that have none."""
        scored = self._score(chunk.encoded) if self.taking is None else self.taking(chunk, self._score)
        return part_tables(chunk, scored, self.columns, self.texts)

    def _score(self, encoded: Sequence[Encoded]) -> Scored:
        return self.scorer(encoded, self.batching)


@dataclass(frozen=True, kw_only=True)
class ScoreWork:
    """Scoring a pool's documents by a method that was prepared in a run's folder."""

    request: Request
    folder: Folder
    """The run's folder."""
    opened: Scoring | None = field(default=None, repr=False)
    """What this process has in memory already; it does not travel."""
    stage: str = "scoring"
    hint: str = "Repair or remove the shard, then score into a new folder (--out)."

    def open(self) -> Scoring:
        """Load the workspace and prepare from what the run keeps."""
        if self.opened is not None:
            return self.opened
        workspace = open_workspace(self.request, Silent())
        run = Run.within(self.folder)
        _refuse_changed(run, workspace.fingerprints)
        inputs = workspace.inputs(self.folder, Silent())
        scorer = methods.get(self.request.method).prepare(inputs, self.request.method_settings)
        return Scoring.of(self.request, workspace, scorer, run)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"opened": None}


@dataclass(frozen=True, kw_only=True)
class IndexWork:
    """Sketching a pool's documents into a store."""

    settings: IndexSettings
    folder: Folder
    """The store's folder."""
    opened: Sketching | None = field(default=None, repr=False)
    """What this process has in memory already; it does not travel."""
    stage: str = "indexing"
    hint: str = "Repair or remove the shard, then index again."

    def open(self) -> Sketching:
        """Load the proxy and open the store."""
        if self.opened is not None:
            return self.opened
        store = Store.within(self.folder)
        proxy, encoder = load(self.settings)
        checkpoints = needed_checkpoints(self.settings.method, proxy)
        _refuse_changed(store, fingerprints_of(proxy, checkpoints))
        sketcher = sketcher_of(self.settings, proxy, checkpoints)
        return sketching(store, sketcher, encoder, make_batching(self.settings, proxy, encoder))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"opened": None}


def sketching(store: Store, sketcher: Sketcher, encoder: Encoder, batching: Batching) -> Sketching:
    """Return what sketches chunks with a proxy that is in memory."""
    return Sketching(
        store=store,
        encode=ChunkEncoder(encoder=encoder, overlap=overlap_with(None)),
        sketcher=sketcher,
        batching=batching,
    )


def _refuse_changed(folder: PartFolder, fingerprints: Mapping[str, str]) -> None:
    """Raise CurateError unless the folder was begun with a model, and states of its training, of these."""
    if not folder.record.fingerprints.same_model(fingerprints):
        raise CurateError(
            f"The model {folder.record.model} has changed since {folder.address} was begun.",
            hint="Put that model back, or give another folder with --out.",
        )
