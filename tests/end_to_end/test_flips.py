"""A bit that flips in DVC's cache, in a folder that is a remote, or in S3, is noticed before anything is made of it."""

import os
import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from dvc.repo import Repo

from stages.common import tables
from stages.model.load import load_adapter
from tests.end_to_end.conftest import s3_client
from tests.end_to_end.flips import MISSED, Bucket, Store, flip
from tests.small_log import all_behaviors, sft_adapter, small_log, small_windows

OF_TABLES, OF_ADAPTERS = 300, 100  # flips; an issue asks for so many


@pytest.fixture
def kept(tmp_path, environment, tiny_base, monkeypatch):
    """A repository of DVC with three tables and an adapter; and the reader of each."""
    for name in os.environ.keys() - environment.keys():
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    folder, events = tmp_path / "repository", small_log()
    folder.mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    made = {"events": events, "vocabulary": all_behaviors(),
            "windows": small_windows(events, ["train"] * 4 + ["valid", "natural"])}
    readers = {}
    for name, frame in made.items():
        tables.write(frame, name, folder / f"{name}.parquet")
        readers[folder / f"{name}.parquet"] = lambda path, name=name: tables.read(name, path)
    readers[sft_adapter(tiny_base, folder / "sft")] = load_adapter
    repo = Repo.init(str(folder))
    repo.add([str(path) for path in readers])
    yield repo, readers
    repo.close()


def added(repo: Repo, name: str, **settings: str) -> str:
    with repo.config.edit("local") as config:
        config["remote"][name] = settings
    repo.push(remote=name)
    return name


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("where", ["cache", "folder", "S3"])
def test_no_flipped_bit_is_missed(kept, where, request, tmp_path):
    """`verify` is left as DVC has it, off: with it on, as the README sets it, DVC refuses before a reader looks."""
    repo, readers = kept
    store, remote = Store(Path(repo.cache.local.path)), None
    if where == "folder":
        remote = added(repo, "folder", url=str(tmp_path / "store"))
        store = Store(tmp_path / "store" / "files" / "md5")
    elif where == "S3":
        address = request.getfixturevalue("s3")
        remote = added(repo, "s3", url="s3://adapters/store", endpointurl=address, access_key_id="test",
                       secret_access_key="test", region="us-east-1")
        store = Bucket(s3_client(address), "adapters", "store/files/md5")
    chance, ends = random.Random(where), Counter()
    for out, read in readers.items():
        of_tables = out.suffix == ".parquet"
        for _ in range(OF_TABLES // 9 + 1 if of_tables else OF_ADAPTERS // 3 + 1):
            ends["table" if of_tables else "adapter", flip(repo, out, store, remote, read, chance)] += 1
    print(where, dict(ends))
    assert not any(count for (_, end), count in ends.items() if end == MISSED)
