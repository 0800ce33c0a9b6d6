"""Stage `base`: a model's name becomes a record of what it stands for; the weights stay in the user's cache."""

import argparse
from pathlib import Path

from stages.common.console import console
from stages.common.errors import run
from stages.common.files import atomic_folder
from stages.common.params import Model, read_params
from stages.model.resolve import Manifest, resolve, write_manifest


def base(model: Model) -> Manifest:
    """Resolve `model.name`, fetching the weights where the cache lacks them."""
    return resolve(model.name, model.revision)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, required=True, help="folder that receives base.json")
    args = parser.parse_args()
    manifest = base(read_params(args.params).model)
    with atomic_folder(args.out) as folder:
        write_manifest(manifest, folder)
    console.print(f"base model: {manifest.name} ({manifest.source}, {manifest.license})")


if __name__ == "__main__":
    run(main)
