#!/usr/bin/env bash
# safetensors 0.8.0: `save_file` writes a file that its owner alone can read, whatever the umask.
#
# Files that Python opens follow the umask (0644 by default), so that one folder of a model holds both modes, and who
# shares a machine or a web server's folder reads the JSON and not the weights. Git and DVC do not keep modes: after a
# `dvc pull` it is 0644 again, and nobody sees why it was not before.
# What to do: write the bytes of `save` oneself, or chmod.
# Seen: 0600 beside 0644.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy
cd "$work"
umask 022
"$work/venv/bin/python" - <<'PY'
import os

import numpy as np
from safetensors.numpy import save, save_file

values = {"values": np.zeros(3)}
save_file(values, "file.safetensors")
with open("bytes.safetensors", "wb") as file:
    file.write(save(values))
modes = {name: oct(os.stat(f"{name}.safetensors").st_mode & 0o777) for name in ("file", "bytes")}
print(modes)
assert modes == {"file": "0o600", "bytes": "0o644"}
PY
echo "as described"
