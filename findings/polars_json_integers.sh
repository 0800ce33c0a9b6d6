#!/usr/bin/env bash
# polars 2.1.0: the readers of JSON disagree on a long integer, and `str.json_path_match` makes several ids one.
#
# JSON sets no limit to an integer (RFC 8259, 6). `str.json_path_match` returns text, so one expects the digits as they
# are written; from 2^64 on it returns the nearest float's ("1e+20"), the same for many integers, without a word.
# `read_ndjson` with a schema of strings, and `str.json_decode`, keep every digit of the same lines. Where the integer is
# somebody's id, the first merges people.
# What to do: read fields of JSON lines by `read_ndjson(..., schema={name: pl.String})`.
# Seen: 4 lines with 4 ids; json_path_match gives 1 text, read_ndjson and json_decode 4.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check polars==2.1.0 polars-runtime-32==2.1.0
"$work/venv/bin/python" - <<'PY'
import json

import polars as pl

assert pl.__version__ == "2.1.0"
ids = [10**20 + each for each in range(4)]
lines = pl.Series([json.dumps({"id": each}) for each in ids])
by_path = lines.str.json_path_match("$.id").to_list()
by_decoding = lines.str.json_decode(pl.Struct({"id": pl.String})).struct.field("id").to_list()
by_reading = pl.read_ndjson("\n".join(lines).encode(), schema={"id": pl.String})["id"].to_list()
print("json_path_match:", sorted(set(by_path)), "json_decode:", by_decoding)
assert by_decoding == by_reading == [str(each) for each in ids], (by_decoding, by_reading)
assert set(by_path) == {"1e+20"}, f"the digits are kept now: {by_path}"
PY
echo "as described"
