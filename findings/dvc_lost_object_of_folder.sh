#!/usr/bin/env bash
# DVC 3.67.1: `dvc push` does not restore a file of a folder that a remote has lost, and `dvc status -c` sees none.
#
# A folder is an object `HASH.dir`, which lists its files, and one object a file. Where the remote has the list, the
# files are taken to be there too and are not looked for, with a new `core.site_cache_dir` as well. A clone that pulls
# gets none of the folder, the files that are there included.
# What to do: see it by `dvc pull` in a fresh clone. Delete the folder's `HASH.dir` in the remote (its name is the `md5`
# in the .dvc file or dvc.lock), then `dvc push` where the cache is whole.
# Seen: `Everything is up to date.` of push, `in sync` of status, `2 files failed to download` of the pull; after the
# cure the pull brings both files.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check dvc==3.67.1
mkdir "$work/repository" && cd "$work/repository"
export DVC_NO_ANALYTICS=1 PATH="$work/venv/bin:$PATH"
git init --quiet && dvc init --quiet
git config user.email somebody@example.org && git config user.name somebody
dvc config core.site_cache_dir "$work/site"
dvc remote add --quiet --default store "$work/store"
mkdir folder && echo one > folder/one && echo two > folder/two
dvc add --quiet folder && git add --all && git commit --quiet --message "a folder"
dvc push --quiet
lost=$(md5sum folder/one | cut -c 1-32)
rm -f "$work/store/files/md5/${lost:0:2}/${lost:2}"

dvc push | tee "$work/push"
dvc config --local core.site_cache_dir "$work/other-site"
dvc push | tee "$work/push-anew"
dvc status --cloud | tee "$work/status"
grep --quiet "up to date" "$work/push" && grep --quiet "up to date" "$work/push-anew"
grep --quiet "in sync" "$work/status"
git clone --quiet . "$work/clone"
if (cd "$work/clone" && dvc pull); then
    echo "the pull found the file" >&2
    exit 1
fi
[ ! -e "$work/clone/folder" ]

find "$work/store" -name '*.dir' -delete
dvc push
(cd "$work/clone" && dvc pull)
diff --recursive folder "$work/clone/folder"
echo "as described"
