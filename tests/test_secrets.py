"""Secrets in addresses reach no record, no log and no error."""

from pathlib import Path

import pytest

from curate.errors import CurateError
from curate.folders.record import RunRecord, differences
from curate.scores.run import Run
from curate.secrets import without_secrets

WITH_SECRETS = [
    "https://me:pa55@host/pile/a.jsonl",
    "https://pa55@host/a.jsonl",
    "s3://AKIA:pa55@bucket/pile/",
    "ftp://me:p@pa55@host/a",
    "https://host/a.jsonl?token=pa55&download=true",
    "https://host/a?X-Amz-Credential=pa55&X-Amz-Signature=pa55",
    "az://box/a?sv=2026&sig=pa55",
    "S3FileSystem(key='x', secret='pa55') cannot read s3://bucket/a",
    'storage options {"secret": "pa55", "password": "pa55"}',
    "aws_secret_access_key=pa55",
    "https:/me:pa55@host/a",  # as a path has it
]


@pytest.mark.parametrize("text", WITH_SECRETS)
def test_a_text_loses_the_secrets_of_its_addresses(text: str) -> None:
    assert "pa55" not in without_secrets(text)
    assert "pa55" not in str(CurateError(f"{text}: gone.", hint=f"Look at {text}."))


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/pile/a.jsonl",
        "hf://datasets/org/name@refs%2Fpr%2F1/data.parquet",
        "abfs://box@account.dfs.core.windows.net/a",
        "https://host:8080/a@b.jsonl?download=true&versionId=7",
        "C:/runs/x",
        "me@host.org",
        "-p by=source",
        "seed: the run has 1, you asked for 2",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert without_secrets(text) == text


def test_a_record_and_a_log_hold_none_and_the_same_address_goes_on(tmp_path: Path) -> None:
    settings = {"pool": ["https://me:pa55@host/a.jsonl", "plain"], "nested": {"target": "s3://k:pa55@b/t"}}
    with Run.start(tmp_path / "x", settings=settings, fingerprints={}) as run:
        run.log.end({"failed": {"a": "https://host/a?token=pa55: gone"}})
    for path in (tmp_path / "x").rglob("*"):
        assert b"pa55" not in path.read_bytes()
    assert run.record.pool == ("https://host/a.jsonl", "plain")
    assert differences(RunRecord.make(settings, {}, {}).settings, settings) == []
    Run.start(tmp_path / "x", settings=settings, fingerprints={}).close()
