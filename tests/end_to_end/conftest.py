"""A copy of this repository with a tiny model and a tiny log, on which the user's own commands are run."""

import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from stages.common import tables
from stages.events.simulator.log import BEHAVIORS
from tests.end_to_end.project import SCRIPTS, Project, set_values
from tests.small_log import all_behaviors, small_log, small_windows
from tests.tiny_model import build

ROOT = Path(__file__).parents[2]

COPIED = ("stages", "data", ".dvcignore", "dvc.yaml", "params.yaml")
PIPELINES = ("dvc.yaml", "stages/baselines/dvc.yaml")

SEED = 11  # of the model: one with which B-Tuning is better than A-Tuning at nearly every validation

SMALL = {
    "simulator.users": 40, "simulator.days": 12, "simulator.events_per_day": 10,
    "windowing.history": 8, "windowing.min_history": 3, "windowing.natural": 30, "windowing.balanced_per_behavior": 2,
    "prompt.stream_events": 12,
    "auxiliary.conversations": 24, "auxiliary.max_tokens": 96,  # a random model seldom ends a sentence
    "instructions.train_targets": 300, "instructions.valid_targets": 60,
    "scoring.pool_per_behavior": 2, "selection.per_behavior": 1,
    # validated after every step, so that a better adapter than the SFT one is found and kept
    "dpo.epochs": 1, "dpo.batch_size": 4, "dpo.learning_rate": 0.01, "dpo.valid_per_behavior": 3,
    "dpo.validations_per_epoch": 100, "dpo.patience": 100,
    "predictions.valid_natural": 10, "predictions.valid_per_behavior": 1,
    "evaluate.resamples": 20,
}


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict[str, str]:
    """Neither this machine's settings nor its caches; commands as in an activated virtual environment."""
    place = tmp_path_factory.mktemp("surroundings")
    foreign = ("DVC_", "GIT_", "AWS_", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    own = {f"DVC_{kind}_DIR": str(place / kind.lower()) for kind in ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE")}
    return kept | own | {
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}", "GIT_CONFIG_GLOBAL": os.devnull, "DVC_NO_ANALYTICS": "1",
        "BEHAVIORLM_CACHE": str(place / "cache"), "BEHAVIORLM_DTYPE": "float32", "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1", "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",  # threads only wait for each other over so small a model
    }


@pytest.fixture(scope="session")
def warm_environment(environment, warm_python) -> dict[str, str]:
    """The same, with a `python` that starts sooner."""
    return environment | {"PATH": f"{warm_python.parent}{os.pathsep}{environment['PATH']}"}


@pytest.fixture(scope="session")
def teachable_model(tmp_path_factory) -> Path:
    """The tiny model, but one in which B-Tuning soon changes what is predicted.

    Every behaviour is one token, else a random model always says the shortest; and weights are larger, else hidden
    states differ too little for more than one answer.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = build(tmp_path_factory.mktemp("teachable_model"), SEED)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    tokenizer.add_tokens(list(BEHAVIORS))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(12)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def fresh(environment, warm_environment, teachable_model, tmp_path_factory) -> tuple[Project, str]:
    """The copy after its first `dvc repro`, and what that printed; the result is committed on the branch main.

    The first run is as a person's; what runs behind it starts warm.
    """
    project = Project(tmp_path_factory.mktemp("repository"), environment)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True,
        text=True, check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("shared/"):
            (project.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, project.folder / name)
    project.git("init", "--quiet", "--initial-branch", "main")
    project.git("config", "user.name", "Test")
    project.git("config", "user.email", "test@example.org")
    set_values(project.folder / "params.yaml", SMALL | {"model.name": teachable_model})
    project.commit("a tiny model and a tiny log")
    output = project.dvc("repro")
    assert [path for path in project.changed() if not path.startswith(("dvc.lock", "metrics/"))] == []
    project.commit("first run")
    project.environment = warm_environment
    return project, output


@pytest.fixture
def project(fresh) -> Project:
    """The copy, as it was after the first run."""
    fresh[0].back_to("main")
    return fresh[0]


@pytest.fixture(scope="session")
def _up_to_date(warm_environment, tmp_path_factory) -> Project:
    project = Project(tmp_path_factory.mktemp("up_to_date") / "repository", warm_environment)
    listed = Project(ROOT, warm_environment).git("ls-files", "--cached", "--others", "--exclude-standard", *COPIED)
    for name in listed.splitlines():
        if (ROOT / name).is_file() and not name.endswith("dvc.lock"):
            (project.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, project.folder / name)
    project.git("init", "--quiet", project.folder)
    project.dvc("init", "--quiet", "--force")
    index = Repo(project.folder).index
    read = {Path(dep.fs_path) for dep in index.deps}
    for out in index.outs:
        path = Path(out.fs_path)
        # of a folder what other stages read of it
        for file in [each for each in read if path in each.parents] or [path]:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("an output", encoding="utf-8")
    splits = ["train"] * 5 + ["valid", "natural", "balanced"]
    events = small_log([33] * len(splits))
    log = {"events": events, "windows": small_windows(events, splits), "vocabulary": all_behaviors()}
    for name, frame in log.items():
        tables.write(frame, name, project.folder / "data" / f"{name}.parquet")
    project.dvc("commit", "--force", *PIPELINES)
    return project


@pytest.fixture
def up_to_date(_up_to_date, tmp_path) -> Project:
    """A copy in which every stage's outputs are there and up to date: a small log, and else a word in each file."""
    project = Project(tmp_path / "repository", _up_to_date.environment)
    shutil.copytree(_up_to_date.folder, project.folder)
    return project


@pytest.fixture
def s3(monkeypatch) -> Iterator[str]:
    """The address of a server that speaks S3 and has the bucket `adapters`."""
    pytest.importorskip("dvc_s3")
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    s3_client(f"http://{host}:{port}").create_bucket(Bucket="adapters")
    yield f"http://{host}:{port}"
    server.stop()


def s3_client(address: str) -> Any:
    import boto3

    return boto3.client("s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="test",
                        aws_secret_access_key="test")
