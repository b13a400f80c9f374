"""The states of a proxy's training that a method needs, and the fingerprints of both."""

from collections.abc import Sequence

from curate import methods
from curate.proxies.proxy import Proxy
from curate.training.states import Checkpoint, checkpoints_of, fingerprint_of


def needed_checkpoints(method: str, proxy: Proxy) -> list[Checkpoint]:
    """Return the states of a proxy's training for a method that needs them. Raises CurateError where there are none."""
    return checkpoints_of(proxy.settings) if "checkpoints" in methods.get(method).NEEDS else []


def fingerprints_of(proxy: Proxy, checkpoints: Sequence[Checkpoint] = ()) -> dict[str, str]:
    """Return the fingerprints of a model and, where a method needs them, of the states of its training."""
    return {"model": proxy.fingerprint()} | ({"checkpoints": fingerprint_of(checkpoints)} if checkpoints else {})
