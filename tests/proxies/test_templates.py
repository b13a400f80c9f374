from pathlib import Path

import pytest

from curate.errors import SettingsError
from curate.proxies.loading import load_tokenizer
from curate.proxies.templates import choose_template, shipped_template, template_of
from tests.small_models import tiny_tokenizer


def test_a_template_is_chosen_by_name_by_file_or_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text("of a file")
    tokenizer = tiny_tokenizer()
    for name, expected in (("other", "theirs"), (str(tmp_path / "chat.jinja"), "of a file"), ("shipped", None)):
        tokenizer.chat_template = {"default": "ours", "other": "theirs"}
        assert template_of(tokenizer) == ("ours", "")
        choose_template(tokenizer, name)
        assert tokenizer.chat_template == (expected or shipped_template())


def test_an_unknown_template_names_what_there_is() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"default": "a", "tool_use": "b"}
    with pytest.raises(
        SettingsError, match=r"expected 'shipped', a file or one of the model's \(default, tool_use\)"
    ) as e:
        choose_template(tokenizer, "tool_uze")
    assert "'tool_use'" in str(e.value.hint)


def test_the_template_of_a_processors_file_is_read_from_its_json(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "chat_template.json"
    file.write_text('{"chat_template": "of the processor"}')
    assert template_of(load_tokenizer(str(tmp_path))) == ("of the processor", "")
    choose_template(tokenizer, str(file))
    assert tokenizer.chat_template == "of the processor"
    for wrong in ('{"template": "x"}', "{% for"):
        file.write_text(wrong)
        with pytest.raises(SettingsError, match=r"chat_template\.json: expected a chat template, or"):
            choose_template(tokenizer, str(file))
    tokenizer.chat_template = "its own"
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).chat_template == "its own"
