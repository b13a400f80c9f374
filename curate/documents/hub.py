"""Addresses of the hub: of a dataset's files, and of the pages that show them."""

import re

_PAGE = re.compile(
    r"(https?://)?(www\.)?(huggingface\.co|hf\.co)/datasets/(?P<repo>[\w.-]+/[\w.-]+?)/?"
    r"(/(?P<kind>viewer|tree|blob|discussions)(/(?P<revision>[^/?#]+)(/(?P<path>[^?#]+))?)?.*)?([?#].*)?"
)
"""Addresses of the hub's pages, which hold no data; those of files have `resolve`."""


def hub_url(repo: str, revision: str | None) -> str:
    """Return the hf:// address of a dataset repository; a revision with slashes (refs/…) is quoted."""
    return f"hf://datasets/{repo}" + (f"@{revision.replace('/', '%2F')}" if revision else "")


def shown_on(address: str) -> str | None:
    """Return the address of the data that a page of the hub shows; None where an address is no such page."""
    if (page := _PAGE.fullmatch(address)) is None:
        return None
    if page["kind"] not in ("tree", "blob") or not page["path"]:
        return page["repo"] + (f"@{page['revision']}" if page["kind"] == "tree" and page["revision"] != "main" else "")
    return f"{hub_url(page['repo'], page['revision'])}/{page['path']}"
