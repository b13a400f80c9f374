"""Go on with a folder by its name alone: its settings come from its own record."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from curate import methods
from curate.documents.addresses import lies_here
from curate.documents.located import ADDRESSES, located, located_settings
from curate.errors import SettingsError
from curate.fields import Fields
from curate.folders.folder import Folder, read_json
from curate.folders.local import open_folder
from curate.folders.record import RunRecord, as_json
from curate.pipeline.settings import CascadeSettings
from curate.proof.settings import SETTINGS, ValidateSettings, VerifySettings
from curate.proxies.devices import choose_device
from curate.rescoring.settings import RescoreSettings
from curate.score_settings import ScoreSettings
from curate.scores.run import Run
from curate.settings import build
from curate.stores.settings import IndexSettings
from curate.stores.store import Store
from curate.students.settings import PredictSettings

KINDS: dict[str, Any] = {
    "cascade": CascadeSettings,
    "score": ScoreSettings,
    "predict": PredictSettings,
    "rescore": RescoreSettings,
    "index": IndexSettings,
    "validate": ValidateSettings,
    "verify": VerifySettings,
}
"""Settings by the command that writes a folder."""
CASCADE = "cascade.json"
"""In the folder of a cascade's last run: its settings and the working folder in which they were given."""
_BEGIN_ANEW = (
    "Begin it by its whole command (curate score --target … --pool … --out {folder}); `curate status` lists the runs "
    "that --continue can go on with."
)
_NAMED = 5
_PROOF = ("selection", "target", "pool", "other", "model", "runs", "banks")
"""Settings of validations and verifications that are addresses."""


def recorded(folder: Path | str) -> Any:
    """Return the settings that a folder was begun with, its addresses as they are found from here.

    `curate.score(curate.recorded("runs/x"), "runs/x")` goes on with a run; so do `cascade`, `predict`, `rescore`,
    `index`, `validate` and `verify` with theirs. Raises SettingsError for a folder that none of them wrote.
    """
    command, values = recorded_values(folder)
    kind = KINDS[command]
    return kind.of(values) if issubclass(kind, ScoreSettings) else build(kind, values, owner=f"The record of {folder}")


def recorded_values(folder: Path | str) -> tuple[str, dict[str, Any]]:
    """Return the command that began a folder, and its settings by name. Raises SettingsError."""
    place = open_folder(folder)
    if place.exists(CASCADE):
        return _begun(read_json(place, CASCADE), ADDRESSES)
    if place.exists(Run.RECORD):
        run = Run.open(folder)
        return of_record(run.record, located_settings(run))
    if place.exists(Store.RECORD):
        store = Store.open(folder)
        pool = [located(store, address) for address in store.record.details.pool]
        command, values = of_record(store.record, located_settings(store))
        return command, values | {"pool": pool}
    if place.exists(SETTINGS):
        return _begun(read_json(place, SETTINGS), _PROOF)
    raise SettingsError(f"--continue {folder}: {folder} {_lacking(place)}", hint=_BEGIN_ANEW.format(folder=folder))


def begun_with(command: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is written down of a command, so that its folder's name alone goes on with it."""
    return {"command": command, "working_folder": os.getcwd(), "settings": dict(settings)}


def _begun(content: Mapping[str, Any], addresses: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return what `begun_with` wrote, its addresses as they are found from here."""
    settings, where = content["settings"], content["working_folder"]
    return content["command"], settings | {n: _there(settings[n], where) for n in addresses if settings.get(n)}


def _lacking(place: Folder) -> str:
    """Say why nothing can be gone on with in a folder that has no settings."""
    begun = "A command that was stopped while it loaded its model leaves no settings to go on with, and no results."
    if not place.exists():
        return f"is no folder. {begun}"
    others = [name.rstrip("/") for name in place.list() if not name.startswith(".")]
    if others:
        return f"holds no run, store, validation or verification; it holds {', '.join(others[:_NAMED])}."
    return f"is empty. {begun}"


def of_record(record: RunRecord, settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the command that wrote the record of a run or a store, and `settings` under that command's own names."""
    settings = dict(settings)
    own = dict(record.method_settings)
    if record.is_rescoring:
        command, settings = "rescore", {**settings, **own, "runs": settings["parent_run"]}
    elif record.is_prediction:
        command, settings = "predict", {**settings, **own}
    elif record.is_store:
        command, settings = "index", {**settings, "pool": record.details.pool}
    else:
        command = "score"
        if own.get("seed") == settings.get("seed"):  # it follows the run's
            settings["method_settings"] = {n: v for n, v in own.items() if n != "seed"}
    names = set(KINDS[command].__dataclass_fields__)
    return command, {name: value for name, value in settings.items() if name in names}


def defaults(record: RunRecord) -> dict[str, Any]:
    """Return the default of every setting of a record, its method's among them, as the record would have it."""
    command, _ = of_record(record, record.settings)
    kind = IndexSettings if command == "index" else ScoreSettings
    usual = {f.name: _default(f) for f in fields(kind)}
    if command == "index":
        name = record.method or methods.DEFAULT_OF_STORES
        own = asdict(methods.store_of(name).Settings()) if name in methods.names() else {}
        usual |= {n: v for n, v in own.items() if n in usual} | {"background": methods.background_of(name)}
        usual |= {"method_settings": {n: v for n, v in own.items() if n not in usual}}
    elif record.method in methods.names():
        method = methods.get(record.method)
        own = RescoreSettings().method_settings() if command == "rescore" else asdict(method.Settings())
        usual |= {"method_settings": own, "background": method.BACKGROUND}
        if command == "score" and "check" not in own:
            usual["check"] = 0  # the method makes none of its own
    return as_json(usual | {"fields": asdict(Fields()), "device": choose_device("auto").type})


def _default(field: Any) -> Any:
    if field.default is not MISSING:
        return field.default
    return None if field.default_factory is MISSING else field.default_factory()


def _there(value: Any, where: str) -> Any:
    """Return addresses as they lie from here, given that they were given in the folder `where`."""
    if not isinstance(value, str):
        return [_there(v, where) for v in value]
    then = os.path.join(where, value)
    return then if where != os.getcwd() and lies_here(then) else value
