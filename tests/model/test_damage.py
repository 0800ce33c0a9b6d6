"""Every bit of an adapter's folder counts: one that is flipped is an error where the adapter is read."""

import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.common.errors import UserError
from stages.model.load import load_adapter, load_merged, load_tokenizer, new_adapter
from stages.model.resolve import read_manifest
from stages.model.settings import Lora

FILES = ["SHA256SUMS", "adapter_config.json", "adapter_model.safetensors", "base.json"]


@pytest.fixture
def copied(tuned, tmp_path):
    """An adapter's folder that a test may damage."""
    return shutil.copytree(tuned, tmp_path / "sft")


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@given(data=st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_is_noticed_in_whichever_file_it_is(tuned, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flip") / "sft"
    shutil.copytree(tuned, folder)
    path = folder / data.draw(st.sampled_from(FILES))
    flip(path, data.draw(st.integers(0, path.stat().st_size * 8 - 1)))
    with pytest.raises(UserError, match="(?s)sft/.*(damaged|no such file).*data/README.md"):
        read_manifest(folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize("read", [
    load_merged, load_adapter, load_tokenizer, read_manifest,
    lambda folder: new_adapter(folder, Lora(rank=1, alpha=1, dropout=0), 0),
], ids=["load_merged", "load_adapter", "load_tokenizer", "read_manifest", "new_adapter"])
def test_every_reader_of_a_folder_checks_it_first_and_names_the_file(copied, read):
    flip(copied / "adapter_model.safetensors", 8 * 5000)
    with pytest.raises(UserError, match=r"sft/adapter_model.safetensors: damaged: .* `dvc pull` or `dvc repro`"):
        read(copied)


def test_a_file_that_is_lost_or_more_is_named(copied):
    (copied / "adapter_config.json").rename(copied / "other.json")
    with pytest.raises(UserError, match="adapter_config.json: no such file, but SHA256SUMS has it"):
        load_merged(copied)
    (copied / "other.json").rename(copied / "adapter_config.json")
    shutil.copy(copied / "base.json", copied / "more.json")
    with pytest.raises(UserError, match="more.json: SHA256SUMS does not have it"):
        load_merged(copied)


def test_what_people_put_beside_an_adapter_is_theirs(copied):
    (copied / "README.md").write_text("a card for a hub")
    assert read_manifest(copied)


def test_a_folder_of_an_older_version_is_refused_with_the_cure(copied):
    (copied / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="SHA256SUMS: no such file: .*sft was written by an older .*`dvc repro` makes"):
        read_manifest(copied)


def test_the_checksums_are_those_of_sha256sum(copied):
    """So that who copies an adapter elsewhere can check it without this repository."""
    found = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=copied, capture_output=True,
                           text=True, check=True)
    assert found.stdout.splitlines() == [f"{name}: OK" for name in FILES[1:]]
