"""A log that lies elsewhere is fetched as data/raw/README.md says: from a server of HTTP, and one that speaks S3."""

import functools
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stages.events.reading import find_files
from tests.end_to_end.project import Project

pytestmark = pytest.mark.timeout(300)
LOG = "user,time,behavior\nu1,2024-03-01 09:00:00,Gaming\n"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None: ...


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Project:
    """A repository of Git and DVC with a folder for the log."""
    project = Project(tmp_path / "repository", {**os.environ, "NO_PROXY": "127.0.0.1", "DVC_NO_ANALYTICS": "1"})
    (project.folder / "data" / "raw").mkdir(parents=True)
    project.git("init", "--quiet")
    project.dvc("init", "--quiet")
    return project


@pytest.fixture
def http(tmp_path) -> Iterator[tuple[str, Path]]:
    """The address of a server, and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()


def test_http(empty, http):
    address, folder = http
    (folder / "log.csv").write_text(LOG)
    empty.dvc("import-url", f"{address}/log.csv", "data/raw/log.csv")
    log = empty.folder / "data" / "raw" / "log.csv"
    assert log.read_text() == LOG
    assert find_files(log.parent, "*") == [log], "the pointer beside it is no log"
    (folder / "log.csv").write_text(LOG + "u1,2024-03-01 09:30:00,Reading\n")
    empty.dvc("update", "data/raw/log.csv.dvc")
    assert log.read_text().count("\n") == 3


def test_s3(empty, s3):
    import boto3

    boto3.client("s3", endpoint_url=s3, region_name="us-east-1", aws_access_key_id="test",
                 aws_secret_access_key="test").put_object(Bucket="adapters", Key="logs/a.csv", Body=LOG.encode())
    empty.dvc("remote", "add", "--local", "logs", "s3://adapters")
    for name, value in (("endpointurl", s3), ("access_key_id", "test"), ("secret_access_key", "test"),
                        ("region", "us-east-1")):
        empty.dvc("remote", "modify", "--local", "logs", name, value)
    empty.dvc("import-url", "remote://logs/logs", "data/raw/logs")
    assert (empty.folder / "data" / "raw" / "logs" / "a.csv").read_text() == LOG
