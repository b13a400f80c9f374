"""The library does what the command does: every option of every command, against the same setting in Python."""

from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from curate import methods
from curate.cli._settings import Flag, flags_of, given
from curate.errors import SettingsError
from curate.folders.record import canonical
from curate.pipeline.request import resolve
from curate.pipeline.settings import BenchSettings
from curate.proof.settings import ValidateSettings, VerifySettings
from curate.rescoring.settings import RescoreSettings
from curate.score_settings import ScoreSettings
from curate.settings import build, gathered, words_of
from curate.stores.settings import IndexSettings
from curate.training.recipe import Recipe
from curate.training.settings import WarmupSettings

COMMANDS: dict[str, tuple[type, dict[str, Any]]] = {
    "bench": (BenchSettings, {}),
    "index": (IndexSettings, {"pool": ("p",)}),
    "rescore": (RescoreSettings, {}),
    "score": (ScoreSettings, {"target": ("t",), "pool": ("p",)}),
    "validate": (ValidateSettings, {}),
    "verify": (VerifySettings, {}),
    "warmup": (WarmupSettings, {}),
}
# Where one value would break a rule that another field takes part in.
VALUES = {
    "context": "600",
    "batch_tokens": "8192",
    "vocab_size": "1000",
    "width": "384",
    "minutes": "2.5",
    "heads": "6",
    "method": "cosine",
    "lora": "8",
}
GIVEN_MODEL = {"model": "m"}
BESIDE = {"lora": GIVEN_MODEL, "batch_documents": GIVEN_MODEL, "chat_template": GIVEN_MODEL}
BESIDE |= {"fit_from": {"target": (), "pool": ()}}


def value_for(flag: Flag, hint: Any) -> str:
    """Return a value, as typed, that is not the field's default."""
    if flag.path[-1] in VALUES and not words_of(hint):
        return VALUES[flag.path[-1]]
    if words := words_of(hint):
        return next((w for w in words if w != flag.default), words[0])
    if flag.path[-1] == "baselines":
        return "length"
    if flag.path[-1] in ("device", "devices"):
        return "cpu"
    if "NUMBER" in flag.words:
        return "0.25"
    return "120" if flag.words == "N" else f"other-{flag.path[-1]}"


def hint_of(kind: type, path: tuple[str, ...]) -> Any:
    from typing import get_type_hints

    from curate.settings import nested

    for name in path[:-1]:
        kind = nested(kind)[name]
    return get_type_hints(kind, include_extras=True)[path[-1]]


def by_command(name: str, kind: type, args: list[str]) -> dict[str, Any]:
    command = import_module(f"curate.cli.{name}").command
    with command.make_context(name, [*args]) as ctx:  # click empties the list
        return given(ctx, kind, ctx.params)


def in_python(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return value


def cases() -> list[Any]:
    return [
        pytest.param(name, kind, flag, id=f"{name}{flag.flags[0]}")
        for name, (kind, _) in COMMANDS.items()
        for flag in flags_of(kind)
    ]


def built(kind: type, values: dict[str, Any]) -> Any:
    return kind.of(values) if hasattr(kind, "of") else build(kind, values, owner="Settings")  # type: ignore[attr-defined]


def argument(name: str) -> list[str]:
    return ["selected"] if name == "verify" else []


@pytest.mark.parametrize(("name", "kind", "flag"), cases())
def test_every_option_is_the_setting_of_that_name(name: str, kind: type, flag: Flag, tmp_path: Path) -> None:
    base = {**COMMANDS[name][1], **BESIDE.get(flag.path[-1], {})}
    if name == "verify":
        base["selection"] = "selected"
    args = argument(name)
    for field, value in base.items():
        args += [a for v in (value if isinstance(value, tuple) else ()) for a in (f"--{field}", v)]
    if "model" in base:
        args += ["--model", base["model"]]
    if flag.parameter == "method_settings":
        typed, expected = ["--set", "dim=4"], {"dim": "4"}
    elif flag.switch:
        typed, expected = [flag.flags[0]], not flag.default
    elif flag.path == ("recipe",):
        file = tmp_path / "recipe.yaml"
        file.write_text("batch_size: 7\n")
        typed, expected = [flag.flags[0], str(file)], {"batch_size": 7}
    else:
        text = value_for(flag, hint_of(kind, flag.path))
        typed, expected = [flag.flags[0], text], (text,) if flag.several else text
    if flag.path[-1] in base and flag.path[-1] in ("target", "pool"):
        args = argument(name) + [a for f, v in base.items() if f != flag.path[-1] for a in (f"--{f}", *v)]
    ours = built(kind, base | by_command(name, kind, [*args, *typed]))
    theirs = built(kind, base | in_python(flag.path, expected))
    assert ours == theirs
    others = {field: ("another",) if field == flag.path[-1] else value for field, value in base.items()}
    alone = flag.path == ("fit_from",) or expected == flag.default  # without it nothing is whole; or the only word
    assert alone or ours != built(kind, others)


@pytest.mark.parametrize("method", methods.names())
def test_every_option_of_a_method_gives_the_same_record_as_the_keyword(method: str, tmp_path: Path) -> None:
    kind = methods.get(method).Settings
    base = {"target": ("t",), "pool": ("p",), "method": method}
    for flag in flags_of(kind, undocumented=True):
        if flag.path == ("recipe",):
            (tmp_path / "r.yaml").write_text("batch_size: 7\n")
            typed, value = [flag.flags[0], str(tmp_path / "r.yaml")], {"batch_size": 7}
        elif flag.switch:
            typed, value = [flag.flags[0]], not flag.default
        else:
            text = {
                "normalize": "length",
                "normalize_rows": "none" if flag.default == "unit" else "unit",
                "check": "5",
                "rounds": "5",
                "fisher": "empirical",
                "refine": "cg",
                "prefer": "",
                "target_share": "0.5",
            }.get(flag.path[-1], "3" if flag.words == "N" else "0.25")
            text = text or next(w for w in ("short", "high", "low") if w != flag.default)
            typed, value = [flag.flags[0], text], text
        try:
            theirs = resolve(ScoreSettings.of(base | {flag.path[-1]: value})).as_dict()
        except SettingsError:
            continue  # this value needs another beside it
        args = ["--target", "t", "--pool", "p", "--method", method, *typed]
        ours = resolve(ScoreSettings.of(by_command("score", ScoreSettings, args))).as_dict()
        assert ours == theirs, flag.flags
        assert ours != resolve(ScoreSettings.of(base)).as_dict(), flag.flags


def test_the_seed_of_a_run_is_its_methods_too_however_it_is_given() -> None:
    args = ["--target", "t", "--pool", "p", "--method", "trackstar", "--dim", "4", "--seed", "1"]
    by_flags = ScoreSettings.of(by_command("score", ScoreSettings, args))
    in_python = ScoreSettings(target=("t",), pool=("p",), method="trackstar", seed=1, method_settings={"dim": 4})
    assert resolve(by_flags).as_dict() == resolve(in_python).as_dict()
    assert resolve(in_python).method_settings["seed"] == 1
    assert (
        resolve(ScoreSettings.of(in_python.as_dict() | {"method_settings": {"seed": 5}})).method_settings["seed"] == 5
    )


def test_a_configuration_gives_what_flags_give_and_flags_win(tmp_path: Path) -> None:
    file = tmp_path / "score.yaml"
    file.write_text(
        "target: t\npool: [p]\ndim: 4\nmethod: cosine\ngroup-by: task\ntext-column: body\nset: {rank: 2}\nseed: 1\n"
    )
    by_file = ScoreSettings.of(by_command("score", ScoreSettings, ["--config", str(file), "--seed", "3"]))
    flags = ["--target", "t", "--pool", "p", "--dim", "4", "--method", "cosine", "--group-by", "task"]
    flags += ["--text-column", "body", "--set", "rank=2", "--seed", "3"]
    assert resolve(by_file) == resolve(ScoreSettings.of(by_command("score", ScoreSettings, flags)))


def test_a_target_has_columns_of_its_own_and_the_pools_where_none_is_given() -> None:
    args = ["--target", "t", "--pool", "p", "--prompt-column", "ask", "--target-completion-column", "answer"]
    settings = ScoreSettings.of(by_command("score", ScoreSettings, args))
    assert settings.target_fields is not None
    assert (settings.target_fields.prompt, settings.target_fields.completion) == ("ask", "answer")
    assert settings.fields.completion == "completion"


def test_settings_by_name_go_into_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("learning_rate: 1e-3\nsubsets: 50\n")
    args = ["runs/x", "--config", str(tmp_path / "c.yaml"), "--set", "batch_size=16"]
    settings = build(ValidateSettings, by_command("validate", ValidateSettings, args), owner="A validation")
    assert (settings.recipe.learning_rate, settings.recipe.batch_size, settings.subsets) == (1e-3, 16, 50)


def test_epochs_take_the_place_of_magics_own_number_of_steps() -> None:
    base = {"target": "t", "pool": "p", "method": "magic"}
    assert resolve(ScoreSettings.of(base)).method_settings["recipe"]["steps"] == 36
    assert resolve(ScoreSettings.of(base | {"epochs": "2"})).method_settings["recipe"]["steps"] is None


@pytest.mark.parametrize("kind", [kind for kind, _ in COMMANDS.values()])
def test_every_field_has_help(kind: type) -> None:
    unhelped = [f.name for f in fields(kind) if not (f.metadata.get("option") and f.metadata["option"].help)]
    assert [n for n in unhelped if not is_dataclass(next(f.default_factory for f in fields(kind) if f.name == n))] == []


def test_an_unknown_name_in_a_file_is_refused_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("sequenses: 4\n")
    with pytest.raises(SettingsError, match="sequences"):
        by_command("bench", BenchSettings, ["--config", str(tmp_path / "c.yaml")])


def test_an_option_of_another_method_is_refused() -> None:
    with pytest.raises(SettingsError, match="Method 'dot' has no option --refine"):
        by_command("score", ScoreSettings, ["--target", "t", "--pool", "p", "--method", "dot", "--refine", "cg"])


def record(path: Path, settings: dict[str, Any], **details: Any) -> str:
    path.write_text(canonical({"format": 1, "settings": settings, "fingerprints": {}, "details": details}))
    return str(path)


def test_a_record_is_a_configuration_and_flags_win_over_it(tmp_path: Path) -> None:
    given = ScoreSettings(target=("t",), pool=("p",), method="trackstar", seed=3, method_settings={"dim": 4})
    settings = resolve(given)
    path = record(tmp_path / "run.json", settings.as_dict())
    again = resolve(ScoreSettings.of(by_command("score", ScoreSettings, ["--config", path])))
    assert again.as_dict() == settings.as_dict()
    args = ["--config", path, "--dim", "2", "--seed", "5"]
    other = resolve(ScoreSettings.of(by_command("score", ScoreSettings, args)))
    assert (other.method_settings["dim"], other.seed, other.method_settings["seed"]) == (2, 5, 5)


def test_the_record_of_a_rescoring_is_a_configuration_of_rescore_alone(tmp_path: Path) -> None:
    asked = RescoreSettings(runs=("runs/x",), shortlist=6, repeats=2, recipe=Recipe(batch_size=4))
    settings = ScoreSettings(target=("t",), pool=("p",), method="magic", method_settings=asked.method_settings())
    path = record(tmp_path / "run.json", {**settings.as_dict(), "parent_run": ["runs/x"]})
    values = by_command("rescore", RescoreSettings, ["--config", path, "--repeats", "3"])
    built_again = build(RescoreSettings, values, owner="A rescoring")
    assert (built_again.runs, built_again.shortlist, built_again.repeats) == (("runs/x",), 6, 3)
    assert built_again.recipe == asked.recipe
    with pytest.raises(SettingsError, match="a record of `curate rescore`; expected one of `curate score`"):
        by_command("score", ScoreSettings, ["--config", path])


def test_the_record_of_a_store_is_a_configuration(tmp_path: Path) -> None:
    settings = IndexSettings(pool=("p",), dim=4, storage="int8")
    path = record(tmp_path / "store.json", settings.as_dict(), pool=["p"])
    assert build(IndexSettings, by_command("index", IndexSettings, ["--config", path]), owner="An index") == settings


@pytest.mark.parametrize(("given", "kept"), [("recompute: true", False), ("recompute: false", True)])
def test_a_flag_that_turns_off_means_the_same_in_a_file(tmp_path: Path, given: str, kept: bool) -> None:
    (tmp_path / "c.yaml").write_text(given)
    values = by_command("rescore", RescoreSettings, ["--config", str(tmp_path / "c.yaml")])
    assert build(RescoreSettings, values, owner="A rescoring").keep_gradients is kept


@pytest.mark.parametrize("given", ["set: {dim: 4}", "set: [dim=4]", "set: dim=4", "dim: 4"])
def test_a_file_sets_a_methods_settings_in_any_way_and_flags_win(tmp_path: Path, given: str) -> None:
    (tmp_path / "c.yaml").write_text(f"target: t\npool: p\nmethod: trackstar\n{given}\n")
    args = ["--config", str(tmp_path / "c.yaml")]
    assert resolve(ScoreSettings.of(by_command("score", ScoreSettings, args))).method_settings["dim"] == 4
    for flags in (["--dim", "2"], ["--set", "dim=2"]):
        settings = ScoreSettings.of(by_command("score", ScoreSettings, [*args, *flags]))
        assert resolve(settings).method_settings["dim"] == 2


def test_set_is_the_recipes_even_where_the_command_has_that_name(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("steps: 12\nbatch-size: 8\n")
    args = ["--recipe", str(tmp_path / "r.yaml"), "--set", "seed=7", "--set", "epochs=3", "--seed", "1"]
    settings = build(RescoreSettings, by_command("rescore", RescoreSettings, args), owner="A rescoring")
    assert (settings.seed, settings.recipe.seed, settings.recipe.epochs) == (1, 7, 3)
    assert (settings.recipe.steps, settings.recipe.batch_size) == (None, 8)


def test_python_takes_paths_and_names_beside_an_object(tmp_path: Path) -> None:
    settings = ScoreSettings(target=tmp_path / "t", pool=[tmp_path / "p"], model=tmp_path / "m")  # type: ignore[arg-type]
    assert (settings.target, settings.model) == ((str(tmp_path / "t"),), str(tmp_path / "m"))
    assert gathered(ScoreSettings, settings, {"dim": 4, "seed": 2}).method_settings == {"dim": 4}
