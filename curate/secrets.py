"""Secrets in addresses: they open a file, and are shown and kept nowhere."""

import re
from collections.abc import Mapping
from typing import Any

_WORDS = r"token|secret|signature|sig|password|passwd|pwd|credential|auth|key"
_PASSWORD = re.compile(r"(?P<scheme>\b[A-Za-z][\w+.-]*:/{1,2})[^/\s:@?#]*:[^/\s?#]*@")
_USER = re.compile(r"(?P<scheme>\b(?:https?|ftps?|sftp|ssh|webdavs?):/{1,2})[^/\s@?#]+@")
_QUERY = re.compile(r"(?P<url>\b[A-Za-z][\w+.-]*:/{1,2}[^\s?'\"]*\?)(?P<query>[^\s'\"]*)")
_PARAMETER = re.compile(rf"(?i)(?P<name>[\w.%-]*(?:{_WORDS})[\w.%-]*)=[^&;#]*")
_OPTION = re.compile(
    r"(?i)(?P<name>\b(?:aws_|azure_|account_|secret_)?(?:access_key(?:_id)?|account_key|secret(?:_access_key)?|password"
    r"|session_token|sas_token|connection_string)['\"]?\s*[=:]\s*['\"]?)[^\s'\",&)}]+"
)
_HIDDEN = "…"


def without_secrets(text: str) -> str:
    """Return a text whose addresses have no user's password, no query's token and no storage option's key."""
    if "=" not in text and "@" not in text and ":" not in text:
        return text
    text = _PASSWORD.sub(r"\g<scheme>", text)
    text = _USER.sub(r"\g<scheme>", text)
    text = _QUERY.sub(lambda m: m["url"] + _PARAMETER.sub(rf"\g<name>={_HIDDEN}", m["query"]), text)
    return _OPTION.sub(rf"\g<name>{_HIDDEN}", text)


def name_without_secrets(name: str) -> str:
    """Return the last part of an address without what its query keeps secret."""
    return without_secrets(f"x://{name}").removeprefix("x://") if "?" in name else name


def addresses_without_secrets(value: Any) -> Any:
    """Return a JSON value whose texts that are addresses have no secrets; texts of other kinds stay as they are."""
    if isinstance(value, str):
        return without_secrets(value) if ":/" in value else value
    if isinstance(value, Mapping):
        return {addresses_without_secrets(k): addresses_without_secrets(v) for k, v in value.items()}
    return [addresses_without_secrets(v) for v in value] if isinstance(value, list | tuple) else value
