"""A real S3 server on this machine, moto's, that answers 503 or loses connections as a test asks."""

import contextlib
import io
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from curate.cli import main
from tests.scoring import make_project

KEYS = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "not-to-be-seen", "AWS_DEFAULT_REGION": "us-east-1"}
_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class S3:
    """The server's address, and how it is to fail."""

    application: Any
    fails_every: int = 0
    """Every so many requests one is answered by 503; 0: none."""
    is_read_only: bool = False
    lost_until: float = 0
    """Until then, by the clock `time.monotonic`, every connection is lost before its answer."""
    url: str = ""
    requests: int = 0
    failed: int = 0
    log: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ: Any, start_response: Any) -> Any:
        with self._lock:
            self.requests += 1
            self.log.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
            fails = bool(self.fails_every) and self.requests % self.fails_every == 0
            self.failed += fails
        if time.monotonic() < self.lost_until:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError
        refuses = self.is_read_only and environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE")
        if not fails and not refuses:
            return self.application(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, answer = ("403 Forbidden", _DENIED) if refuses else ("503 Slow Down", _SLOW_DOWN)
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(answer)))])
        return [answer]

    @property
    def variables(self) -> dict[str, str]:
        """What a process finds the server and its keys by."""
        return {**KEYS, "AWS_ENDPOINT_URL": self.url}

    def files(self, address: str) -> dict[str, bytes]:
        """Return every object under an address, by name."""
        fs = self._filesystem()
        root = address.removeprefix("s3://").rstrip("/")
        return {path.removeprefix(f"{root}/"): fs.cat_file(path) for path in fs.find(root)}

    def names(self, address: str) -> list[str]:
        return self._filesystem().find(address)

    def upload(self, folder: Path, address: str) -> None:
        fs = self._filesystem()
        root = address.removeprefix("s3://").rstrip("/")
        for path in folder.rglob("*"):
            if path.is_file():
                fs.pipe_file(f"{root}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def _filesystem(self) -> Any:
        import fsspec

        return fsspec.filesystem("s3", use_listings_cache=False)


@contextmanager
def serving() -> Iterator[S3]:
    """Serve a bucket named `bucket`; this process and its children find it. Skips the test where moto is missing."""
    pytest.importorskip("moto.server", reason="moto's server is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    s3 = S3(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, s3, threaded=True)
    s3.url = f"http://127.0.0.1:{server.server_port}"
    before = dict(os.environ)
    os.environ.update(s3.variables)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        _forget_connections()  # to a server that was here before, whose buckets moto has kept
        with urlopen(Request(f"{s3.url}/moto-api/reset", method="POST")):
            pass
        s3._filesystem().mkdir("bucket")
        yield s3
    finally:
        server.shutdown()
        _forget_connections()
        os.environ.clear()
        os.environ.update(before)


def make_piled(place: Path, s3: S3, rows: int) -> None:
    """Make a project in a folder, and put its pool into the bucket, too; copies of objects lie in the folder."""
    make_project(place, rows)
    s3.upload(place / "pool", "s3://bucket/pile")
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")  # which `serving` takes back


def _forget_connections() -> None:
    """Make fsspec connect anew: it keeps a file system, and the server that it was made for, for ever."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()


def run(place: Path, *words: str, code: int = 0) -> str:
    """Run a command in a folder, and return what it prints."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(place), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(words))
            ended: object = 0
        except SystemExit as end:
            ended = end.code
    told = out.getvalue() + err.getvalue()
    assert ended == code, told
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in told
    return told


def here(run_folder: Path) -> dict[str, bytes]:
    files = {str(p.relative_to(run_folder)): p.read_bytes() for p in run_folder.rglob("*") if p.is_file()}
    return results(files)


def results(files: dict[str, bytes]) -> dict[str, bytes]:
    """Every file but the log of sessions and who may write."""
    return {n: b for n, b in files.items() if n != "log.jsonl" and not n.endswith((".lock", ".lease"))}
