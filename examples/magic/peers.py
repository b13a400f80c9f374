"""The other methods' scores of the same documents against the same queries, fitted on the same background."""

import numpy as np
import xxhash
from laboratory import Arrays, Laboratory

from curate import methods
from curate.folders.kept import Kept
from curate.folders.local import open_folder
from curate.folders.tensors import TENSORS
from curate.gradients.documents import Batching
from curate.methods.contract import EncodedTarget, Inputs
from curate.progress import Silent
from curate.proxies.proxy import Proxy, load_proxy
from curate.proxies.room import Room
from curate.proxies.settings import ProxySettings
from curate.proxies.tokens import Encoded, TokenSettings
from curate.training.replay import Training
from curate.training.snapshots import scoring_proxy

PEERS: dict[str, tuple[str, dict[str, object]]] = {
    "EK-FAC": ("ekfac", {}),
    "EK-FAC + CG": ("ekfac", {"refine": "cg"}),
    "TrackStar": ("trackstar", {"dim": 16}),
    "cosine": ("cosine", {"dim": 16}),
    "gradient dot": ("dot", {}),
    "BM25": ("bm25", {}),
}
WORDS = {"BM25"}  # no model, so no question of which


class Told(Silent):
    """Prints what a method warns of (refinement that does not improve a query's direction, say), and goes on."""

    def warn(self, message: str) -> None:
        print(f"warning: {message}", flush=True)


def peer_scores(lab: Laboratory) -> Arrays:
    """Return scores `[queries, documents]` by method, with the model as it was given and as the run left it."""
    found: Arrays = {}
    for trained in (False, True):
        for name in PEERS:
            if trained and name in WORDS:
                continue
            title = f"{name}, {'after the run' if trained else 'before the run'}" if name not in WORDS else name
            found |= lab.kept(f"peers/{title}", lambda n=name, t=trained, s=title: {s: _scores(lab, n, trained=t)})
            print(f"{title}: scored", flush=True)
    return found


def _scores(lab: Laboratory, name: str, *, trained: bool) -> np.ndarray:
    method, settings = PEERS[name]
    module = methods.get(method)
    inputs = inputs_of(lab, trained=trained)
    scorer = module.prepare(inputs, module.Settings(**settings))
    scores = scorer(list(lab.own.documents), inputs.batching).scores.double().cpu().numpy().T
    return scores[1:] if len(scores) > 1 else scores  # the first column is of all queries together


def inputs_of(lab: Laboratory, *, trained: bool) -> Inputs:
    """Return what a method prepares on: each query a group of its own, the first background run's documents."""
    queries, background = lab.query_documents, lab.background(0)
    groups = [f"query {i:04d}" for i in range(len(queries))]
    proxy = _proxy(lab, trained=trained)
    target = EncodedTarget(encoded=queries, groups=groups, names=groups, fingerprint=_fingerprint(queries))
    return Inputs(
        proxy=proxy,
        proxy_fingerprint=proxy.fingerprint(),
        target=target,
        background=lambda: background,
        background_fingerprint=_fingerprint(background),
        batching=Batching(tokens=TokenSettings(context=lab.setup.tokens), room=Room(min(lab.micro, 2048))),
        kept=Kept(open_folder(lab.folder / "peers"), TENSORS),
        reporter=Told(),
    )


def _proxy(lab: Laboratory, *, trained: bool) -> Proxy:
    """Return the model before the attributed run, or after it (there, adapters' gradients where those are trained)."""
    proxy = load_proxy(ProxySettings(model=lab.setup.model, device="cpu"))
    if not trained:
        return proxy
    end = Training(lab.model, lab.own, lab.recipe).run()
    return scoring_proxy(proxy, lab.recipe, end.parameters)


def _fingerprint(documents: list[Encoded]) -> str:
    digest = xxhash.xxh3_64()
    for document in documents:
        digest.update(document.ids.tobytes() + b"|" + document.text.encode())
    return digest.hexdigest()
