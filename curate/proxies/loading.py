"""Load a model and its tokenizer from a folder or the hub; refuse what cannot be scored before its weights are read."""

import os
import ssl
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from curate.documents.files import is_pointer
from curate.errors import CurateError, SettingsError
from curate.folders.folder import Folder
from curate.folders.local import is_in_store, open_folder
from curate.folders.whole import UNFINISHED, local_copy
from curate.proxies.quantisation import refuse_quantised, unpack, unpack_head
from curate.proxies.suggestions import near_model
from curate.proxies.templates import add_template

# Seconds for the hub's first answer. Its own client tries for a minute.
PATIENCE = 5
_NO_CAUSAL = "transformers has no causal form of"
_TEXT_ALONE = "Use a causal language model; of a model for images or sound, its text model alone, saved by itself."


_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_FORMS = {
    "*.gguf": "{0} is for llama.cpp. AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file='{0}').save_pretrained(NEW)"
    " writes what is read; so does the tokenizer.",
    "consolidated*": "{} is in the form of its makers; transformers has scripts that convert such weights.",
    "zero_to_fp32.py": "The weights are DeepSpeed's, in parts: python {} FOLDER NEW joins them.",
    "pytorch_model_fsdp*": "{} holds weights in parts of FSDP: accelerate merge-weights joins them.",
    "model-*-of-*.safetensors": "{} is a part of the weights; model.safetensors.index.json, their list, is missing.",
}
"""Weights that lie in a folder in forms that are not read, by patterns of their names, and what to do."""


class NotHere(CurateError):
    """A model that is neither on this machine nor to be had from the hub."""


def find(address: str, *, setting: str = "model") -> str:
    """Return where a model lies: a folder, or a name on the hub; of one in an object store, the folder of its copy.

    `setting` is what errors call the address. Raises SettingsError where a folder is missing.
    """
    if is_in_store(address):
        return _fetched(open_folder(address), setting)
    folder = Path(address).expanduser()
    if folder.is_dir():
        return str(folder)
    if address.startswith((".", "/", "~")) or address.count("/") > 1 or folder.exists():
        what = "that is a file" if folder.exists() else "there is no such folder"
        raise SettingsError(
            f"{setting} is {address!r}; {what}.",
            hint=near_model(address) or "Give the folder that `save_pretrained` wrote.",
        )
    return address


def _fetched(folder: Folder, setting: str) -> str:
    """Copy a model of an object store to this machine, and return where. Raises SettingsError where none is whole."""
    try:
        copy = local_copy(folder)
    except FileNotFoundError:
        raise SettingsError(f"{setting} is {folder.address!r}; there is no such folder.") from None
    if (copy / UNFINISHED).exists():
        raise SettingsError(
            f"{setting} is {folder.address!r}; it is not all there yet.",
            hint="Wait for the warm-up that writes it; if it was killed, repeat it.",
        )
    return str(copy)


def load_whole(
    source: str,
    dtype: torch.dtype,
    device: torch.device,
    *,
    weights: Path | None = None,
    revision: str | None = None,
    packed: bool = False,
) -> PreTrainedModel:
    """Load a causal language model straight to the device, in the type that it is to have.

    `weights` is a folder with another state of the same model. With `packed`, layers of bitsandbytes below the head
    stay quantised. Raises CurateError.
    """
    options = _options(source, revision)
    with explained(source):
        config = AutoConfig.from_pretrained(str(weights or source), **options)
    quantised = refuse_quantised(config, source)
    if config.is_encoder_decoder:
        raise CurateError(
            f"{source} is an encoder-decoder model ({config.model_type}); expected a causal one, in which each token is"
            " predicted from those before it.",
            hint="Use a decoder-only model of the same family or size.",
        )
    # Tensor by tensor from the file to the card: host memory never holds the model. A Mac has one memory for both.
    straight = {"device_map": {"": device}} if device.type == "cuda" or quantised else {}
    with explained(source):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(weights or source),
            config=config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **straight,
            **options,
        )
    model, report = loaded
    if mismatched := sorted(report["mismatched_keys"]):
        name, found, expected = mismatched[0]
        others = _and_more([key for key, _, _ in mismatched])
        sizes = f"{name} is {_shape(found)}, expected {_shape(expected)}{others}"
        raise CurateError(
            f"The weights of {source} do not fit its config.json: {sizes}.",
            hint="Give weights and a config.json that were saved together; a vocabulary may have been enlarged in one.",
        )
    if missing := sorted(report["missing_keys"]):
        raise CurateError(
            f"The weights of {source} lack {missing[0]}{_and_more(missing)}, which {type(model).__name__} has"
            f"{_instead(sorted(report['unexpected_keys']))}.",
            hint="Give a whole causal language model, its head included, as `save_pretrained` writes it.",
        )
    if not quantised:
        return model.to(device)
    unpack_head(model, dtype) if packed else unpack(model, dtype)
    return model


def load_tokenizer(source: str, revision: str | None = None, *, alone: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer; `alone`: no model is wanted beside it. Raises CurateError."""
    with explained(source, alone=alone):
        tokenizer = AutoTokenizer.from_pretrained(source, **_options(source, revision))
    add_template(tokenizer, Path(source))
    return tokenizer


@contextmanager
def quietly() -> Iterator[None]:
    """Keep what transformers, peft and others say to programmers from the user, and their progress bars."""
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
    if "HF_HUB_VERBOSITY" not in os.environ:
        hub_logging.set_verbosity_error()
    # Where it is installed, peft imports it for any adapter, and it misses kernels that nothing here calls.
    getLogger("bitsandbytes").setLevel(ERROR)
    logging.disable_progress_bar()
    disable_progress_bars()
    # peft imports it for every adapter; on some CPUs it asks for a package that only 4-bit layers use.
    getLogger("bitsandbytes").setLevel(ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def explained(source: str, *, alone: bool = False) -> Iterator[None]:
    """Turn what the libraries raise for a model, or for a tokenizer alone, that does not load into a CurateError."""
    try:
        yield
    except (CurateError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # safetensors, pickle and tokenizers raise classes of their own for damaged files
        raise (_no_tokenizer if alone else _not_loaded)(source, error) from error


def _options(source: str, revision: str | None) -> dict[str, Any]:
    # Without a word about a repository's own code, transformers would ask on the terminal.
    options: dict[str, Any] = {"trust_remote_code": False} | ({"revision": revision} if revision else {})
    return options if Path(source).is_dir() or _reachable() else options | {"local_files_only": True}


def _reachable() -> bool:
    """Say whether the hub answers, and soon."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=PATIENCE).close()
    except OSError as error:
        # A refusal, or a certificate that Python's own store lacks, is an answer, too.
        return isinstance(error, HTTPError) or isinstance(getattr(error, "reason", error), ssl.SSLError)
    return True


def _not_loaded(source: str, error: Exception) -> CurateError:
    reason = _reason(error)
    folder = Path(source)
    if folder.is_dir():
        return CurateError(
            f"{source} does not load as a causal language model: {reason}",
            hint=_inner(folder)
            or _not_fetched(folder, error)
            or _in_another_form(folder, error)
            or "The folder needs config.json, weights and a tokenizer, as `save_pretrained` writes them.",
        )
    return NotHere(
        f"The model {source} is not on this machine and could not be fetched: {reason}",
        hint=near_model(source)
        or "Give the folder of a model with --model DIR, or make a small one: curate warmup --pool POOL --out proxy,"
        " then --model proxy.",
    )


def _no_tokenizer(source: str, error: Exception) -> CurateError:
    problem = (
        "does not load as a tokenizer"
        if Path(source).is_dir()
        else "is no tokenizer on this machine and could not be fetched"
    )
    return CurateError(
        f"{source} {problem}: {_reason(error)}",
        hint=_not_fetched(Path(source), error) or "Give the folder that a tokenizer's `save_pretrained` wrote.",
    )


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    sizes = [line for line in lines if line.startswith("size mismatch")]
    if lines and lines[0].startswith("Couldn't instantiate the backend tokenizer"):
        return "there is no tokenizer.json, or file of sentencepiece or tiktoken that one could be made from."
    if lines and lines[0].startswith("Unrecognized configuration class"):
        kind = lines[0].partition("class '")[2].partition("'")[0].rpartition(".")[2].removesuffix("Config")
        return f"{_NO_CAUSAL} {kind or 'this kind of model'}."
    return (sizes or lines or [type(error).__name__])[0]


def _inner(folder: Path) -> str | None:
    """Say which sub-folders hold models, where the folder itself holds none."""
    if any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
        return None
    names = sorted({p.parent.name for n in ("config.json", "adapter_config.json") for p in folder.glob(f"*/{n}")})
    return f"There are models in its folders {', '.join(names[:8])}: give one of them." if names else None


def _not_fetched(folder: Path, error: Exception) -> str | None:
    """Say what to do where a file of the folder is a pointer of Git LFS, or damaged weights."""
    pointer = next((file.name for file in sorted(folder.glob("*")) if file.is_file() and is_pointer(str(file))), None)
    if pointer is not None:
        return f"{pointer} is a pointer of Git LFS in the place of the file: run `git lfs pull` in that folder."
    if isinstance(error, SafetensorError | EOFError):
        return "A file of its weights is damaged or was not fetched whole: fetch or save it again."
    return None


def _instead(names: list[str]) -> str:
    return f"; they have {names[0]}{_and_more(names)}, which it has not" if names else ""


def _shape(shape: Any) -> str:
    return "×".join(map(str, shape))


def _in_another_form(folder: Path, error: Exception) -> str | None:
    """Say what to do about a model that is there, in a form that transformers does not load."""
    if "custom code" in str(error):
        return "The model's own code would have to be run, which is not done: give one that transformers has itself."
    if any((folder / name).exists() for name in _WEIGHTS):
        return None
    names = (path.name for path in sorted(folder.iterdir()))
    return next((do.format(name) for name in names for form, do in _FORMS.items() if fnmatch(name, form)), None)


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
