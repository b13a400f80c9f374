"""A folder on a real S3 server that throttles."""

import pytest

from curate.folders.folder import put_text
from curate.folders.lease import LeaseLostError
from curate.folders.object_folder import ObjectFolder
from tests.s3 import serving

pytestmark = pytest.mark.slow


def test_every_fourth_request_refused_loses_no_write_and_no_claim(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with serving() as s3:
        folder, s3.fails_every = ObjectFolder("s3://bucket/run"), 4
        with folder.claim() as claim:
            guarded = claim.guard(folder)
            for number in range(4):
                put_text(guarded, f"scores/{number}.txt", str(number))
                put_text(guarded, "run.json", str(number))
            copies = folder.locals(folder.list("scores"))
        assert [p.read_text() for p in copies] == ["0", "1", "2", "3"]
        assert folder.read("run.json") == b"3"
        with folder.claim(), pytest.raises(LeaseLostError):
            put_text(guarded, "run.json", "late")
        assert s3.failed > 10
