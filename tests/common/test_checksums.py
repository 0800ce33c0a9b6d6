"""Every bit of a table counts: one that is flipped is an error where the table is read, and no other number."""

import hashlib
import io
import subprocess
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.common import checksums, tables
from stages.common.errors import UserError

WINDOWS = pl.DataFrame({"row": range(900), "split": ["train", "test", "valid"] * 300}, schema=tables.SCHEMAS["windows"])
VOCABULARY = pl.DataFrame(
    # names that look like what the checksum is found by
    [(name, 3, 0.5, "head", True) for name in ("sha256:" + "0" * 64, "a sha256:", "behaviorlm.checksum", "看电影")],
    schema=tables.SCHEMAS["vocabulary"], orient="row",
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The bytes of tables, by their names."""
    folder, found = tmp_path_factory.mktemp("tables"), {}
    for name, frame in (("windows", WINDOWS), ("vocabulary", VOCABULARY), ("pairs", None)):
        tables.write(pl.DataFrame(schema=tables.SCHEMAS[name]) if frame is None else frame, name, folder / name)
        found[name] = (folder / name).read_bytes()
    return found


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_is_noticed_wherever_it_is(written, data):
    name = data.draw(st.sampled_from(sorted(written)))
    content = bytearray(written[name])
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(UserError, match=f"{name}: (damaged|has no checksum)"):
        tables.read_bytes(name, bytes(content), name)


def test_every_bit_of_the_last_kilobyte_is_noticed(written, tmp_path):
    """The checksum itself, its name, the writer's name, the length of the footer and the magic word among them."""
    content = written["vocabulary"]
    for bit in range((len(content) - 1000) * 8, len(content) * 8):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(UserError, match="v: (damaged|has no checksum).*data/README.md"):
            checksums.check_seal(io.BytesIO(changed), "v")


@given(length=st.integers(0, 20_000))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_that_is_cut_off_or_longer_is_noticed(written, length):
    content = written["windows"]
    changed = content[:length] if length < len(content) else content + bytes(length - len(content) + 1)
    with pytest.raises(UserError, match="w: (damaged|has no checksum)"):
        tables.read_bytes("windows", changed, "w")


@pytest.mark.parametrize("read", [tables.read, tables.scan])
def test_a_file_is_checked_before_anything_of_it_is_read(written, tmp_path, read):
    path = tmp_path / "windows.parquet"
    path.write_bytes(written["windows"])
    read("windows", path)
    path.write_bytes(written["windows"][:100] + b"\x01" + written["windows"][101:])
    with pytest.raises(UserError, match=r"windows.parquet: damaged: .* then `dvc pull` or `dvc repro`"):
        read("windows", path)


def test_a_table_without_a_checksum_is_refused(tmp_path):
    """Whoever wrote it: nothing says that it is what was written, and a flip in the checksum's name looks the same."""
    WINDOWS.write_parquet(tmp_path / "windows.parquet")
    with pytest.raises(UserError, match="windows.parquet: has no checksum: written by an older version or another"):
        tables.read("windows", tmp_path / "windows.parquet")


def test_other_programs_read_the_file(written):
    table = pyarrow.parquet.read_table(io.BytesIO(written["vocabulary"]))
    assert table.column("behavior").to_pylist() == VOCABULARY["behavior"].to_list()
    assert pl.read_parquet(io.BytesIO(written["windows"])).equals(WINDOWS)
    digits = pyarrow.parquet.read_metadata(io.BytesIO(written["windows"])).metadata[b"behaviorlm.checksum"]
    assert len(digits) == 71 and digits != b"sha256:" + b"0" * 64


def test_the_same_rows_make_the_same_bytes(written, tmp_path):
    tables.write(WINDOWS.lazy(), "windows", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == written["windows"]


def test_the_command_of_the_readme_finds_damaged_objects_of_a_cache(tmp_path):
    """An object's name is the MD5 of its bytes, `.dir` behind that of a folder's list."""
    text = (Path(__file__).parents[2] / "data" / "README.md").read_text(encoding="utf-8")
    command = text.split("## Damage")[1].split("```bash\n")[1].split("\n```")[0]
    for content, ending in ((b"one", ""), (b"two", ""), (b"[]", ".dir")):
        name = hashlib.md5(content).hexdigest()
        path = tmp_path / ".dvc" / "cache" / "files" / "md5" / name[:2] / f"{name[2:]}{ending}"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    run = partial(subprocess.run, ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run().returncode, run().stdout) == (0, "")
    path.write_bytes(b"[}")
    found = run()
    assert found.returncode == 1 and found.stdout == f"{path.parent.name}/{path.name}: FAILED\n"
