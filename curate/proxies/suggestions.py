"""Name the model that was probably meant: a folder near the given one, or a model of the hub."""

import os
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from curate.proxies.settings import DEFAULT_MODEL

KNOWN = (
    DEFAULT_MODEL,
    "HuggingFaceTB/SmolLM2-360M",
    "EleutherAI/pythia-14m",
    "EleutherAI/pythia-70m",
    "EleutherAI/pythia-160m",
    "EleutherAI/pythia-410m",
    "Qwen/Qwen2.5-0.5B",
    "openai-community/gpt2",
)
"""Small models of the hub that people use as proxies."""
_CONFIGURATIONS = ("config.json", "adapter_config.json")


def near_model(address: str) -> str | None:
    """Return a question that names the nearest model of a folder or of the hub; None where none is near.

    The name of a known model is no slip: of the hub's models no other is named then.
    """
    known = () if address in KNOWN else KNOWN
    addresses = [a for a in dict.fromkeys([*_folders(address), *_cached(), *known]) if a != address]
    by_name: dict[str, str] = {}
    for candidate in reversed(addresses):  # of equal names the folder wins
        by_name |= {candidate.casefold(): candidate, candidate.rsplit("/", 1)[-1].casefold(): candidate}
    wanted = address.rstrip("/").casefold()
    for name, cutoff in ((wanted, 0.75), (wanted.rsplit("/", 1)[-1], 0.6)):
        if close := get_close_matches(name, by_name, n=1, cutoff=cutoff):
            return f"Did you mean {by_name[close[0]]}?"
    return None


def _folders(address: str) -> Iterator[str]:
    """Yield the folders that hold a model beside an address, or one folder below them."""
    above = Path(address).expanduser().parent
    for parent in dict.fromkeys((above, Path())):
        for pattern in ("*", "*/*"):
            for name in _CONFIGURATIONS:
                yield from (str(p.parent) for p in sorted(parent.glob(f"{pattern}/{name}"))[:200])


def _cached() -> Iterator[str]:
    """Yield the ids of the models that the hub's cache on this machine holds."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    for folder in sorted(cache.glob("models--*")):
        yield folder.name.removeprefix("models--").replace("--", "/")
