"""The features of `datasets` that files state: a ClassLabel's names, Image, Translation. They outlive a selection."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from curate.folders.values import JSON_TEXT, Whole, is_list, storage_type

_KEY = b"huggingface"
_PLAIN = {"Value", "List", "LargeList", "Sequence"}


class Features:
    """The features of the columns of a selection, as far as all of its shards state the same."""

    def __init__(self) -> None:
        self._by_column: dict[str, Any] = {}
        self._differing: dict[str, None] = {}

    def learn(self, columns: Iterable[str], metadata: Mapping[bytes, bytes] | None) -> None:
        """Learn what a shard states of its columns; nothing, where it has no metadata."""
        stated = _stated(metadata)
        for name in columns:
            feature = stated.get(name)
            feature = feature if _says_more_than_types(feature) else None
            if self._by_column.setdefault(name, feature) != feature:
                self._differing[name] = None

    @property
    def notes(self) -> list[str]:
        """Sentences on features that are lost, as shards state different ones."""
        return [f"`{name}` has different features of `datasets` in different shards: none." for name in self._differing]

    def kept(self) -> dict[str, Any]:
        """Return the features that all shards state, by column."""
        return {n: f for n, f in self._by_column.items() if f is not None and n not in self._differing}

    def applied(self, schema: pa.Schema) -> tuple[pa.Schema, list[str]]:
        """Return the schema of columns that have their features, and sentences on those that cannot."""
        kept, notes = self.kept(), self.notes
        if not kept:
            return schema, notes
        from datasets import Features as Datasets

        for name in list(kept):
            number = schema.get_field_index(name)
            kind = Datasets.from_dict({name: kept[name]}).arrow_schema.field(name).type
            storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
            if storage == schema.field(number).type:
                schema = schema.set(number, pa.field(name, kind))
            else:
                notes.append(f"`{name}` is no {kept.pop(name).get('_type', 'struct')} any more: its type has changed.")
        info = {"info": {"features": kept}}
        return schema.with_metadata({_KEY: json.dumps(info).encode()}), notes


def in_front_matter(
    types: Mapping[str, pa.DataType], scores: Mapping[str, pa.DataType], features: Features
) -> tuple[list[Any] | None, list[str]]:
    """Return the features of lines of JSON with these marked types, for a card, and sentences on those lost."""
    import datasets

    kept, notes = features.kept(), features.notes
    columns = {}
    for name, kind in {**types, **scores}.items():
        feature = datasets.Features.from_dict({name: kept[name]}) if name in kept else None
        if feature is not None and not _in_json(feature.arrow_schema.field(name).type):
            notes.append(f"`{name}` is no {kept[name].get('_type', 'struct')} in lines of JSON.")
            feature = None
        columns[name] = feature[name] if feature is not None else _feature(kind, datasets)
    try:
        return datasets.Features(columns)._to_yaml_list(), notes
    except AttributeError:  # a datasets that knows no Json: it cannot load such lines anyway
        return None, notes


def _feature(kind: pa.DataType, datasets: Any) -> Any:
    if kind == JSON_TEXT or (isinstance(kind, Whole) and pa.types.is_string(kind.storage_type)):
        return datasets.Json()
    if pa.types.is_struct(kind):
        return {f.name: _feature(f.type, datasets) for f in kind}
    if is_list(kind):
        return datasets.List(_feature(kind.value_type, datasets))
    if pa.types.is_fixed_size_list(kind):
        return datasets.List(_feature(kind.value_type, datasets), length=kind.list_size)
    kind = storage_type(kind)
    return datasets.Value(str(kind).replace("halffloat", "float16") if _in_json(kind) else "string")


def _in_json(kind: pa.DataType) -> bool:
    """Whether lines of JSON hold values of a type as they are."""
    if pa.types.is_nested(kind):
        return all(_in_json(kind.field(i).type) for i in range(kind.num_fields))
    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string, pa.types.is_null)
    return any(check(kind) for check in checks)


def _stated(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    try:
        return json.loads((metadata or {})[_KEY])["info"]["features"] or {}
    except (KeyError, TypeError, ValueError):
        return {}


def _says_more_than_types(feature: Any) -> bool:
    if isinstance(feature, Mapping):
        kind = feature.get("_type")
        return (isinstance(kind, str) and kind not in _PLAIN) or any(map(_says_more_than_types, feature.values()))
    return isinstance(feature, Sequence) and not isinstance(feature, str) and any(map(_says_more_than_types, feature))
