"""The shape of every stage: it reads what it declares, computes, and writes what it declares.

A script `stages/<name>.py` has a function that computes, and one declaration from which the command line is made:

    STAGE = Stage("count", __doc__, count, Params, reads={"events": table("events")}, writes={"out": json("counts")})

    if __name__ == "__main__":
        STAGE.run()

The function gets by name what was read, `params` and the options; what it returns is written in the order of `writes`.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

import polars as pl

from stages.common import launch, tables
from stages.common.checkpoints import checkpoints
from stages.common.console import console
from stages.common.errors import run
from stages.common.files import DIGITS, atomic_file, atomic_folder, fingerprint, read_json, write_json
from stages.common.params import PARAMS, Section, read_params

CODE = Path(__file__).parents[1]
_EPILOG = (
    "`dvc repro{}` runs this stage with the paths that stand in {}, after the stages that it needs; settings are keys "
    "of params.yaml."
)
UNFINISHED = "unfinished"
"""A column that an output has while its stage has not ended, and which stays where the stage was killed."""
_DIGITS = 6  # behind the point, of a number in a CSV


@dataclass(frozen=True)
class Kind:
    """How one input or output is read or written.

    Attributes:
        help: of its option.
        reading: opened for as long as the function computes, where something is read only then.
        grows: the function gets the path, and may write there what it has so far, with the column
            `UNFINISHED`.
        streamed: the function gets the path and writes it on the way; the file appears when all has ended well.
        optional: its option may be left out: the function then gets None, or what it made is not written.
    """

    help: str
    read: Callable[[Path], Any] = Path
    write: Callable[[Any, Path], None] | None = None
    reading: Callable[[Path], AbstractContextManager] = nullcontext
    grows: bool = False
    streamed: bool = False
    optional: bool = False


def optional(kind: Kind) -> Kind:
    return replace(kind, optional=True)


def place(help: str) -> Kind:
    """A path that the function reads itself."""
    return Kind(help)


def table(name: str, lazy: bool = False, help: str = "") -> Kind:
    """A table of `stages.common.tables`; a lazy one is scanned, and only what is asked for is read."""
    help = f"table `{name}`: {help or tables.CONTENT[name]}"
    if lazy:
        return Kind(help, lambda path: tables.scan(name, path), reading=tables.reading)
    return Kind(help, lambda path: tables.read(name, path), lambda frame, path: tables.write(frame, name, path))


def streamed_table(name: str) -> Kind:
    """A table that the function writes itself: it may be larger than memory."""
    return Kind(f"table `{name}`: {tables.CONTENT[name]}", streamed=True)


def table_folder(name: str, help: str, members: Sequence[str] = ()) -> Kind:
    """A folder of tables of one schema, by the names of their files; `members` are those that are read."""

    def read(folder: Path) -> dict[str, pl.DataFrame]:
        # what is absent gives the error of an absent table
        paths = [folder / f"{each}.parquet" for each in members] or sorted(folder.glob("*.parquet")) or [folder]
        return {path.stem: tables.read(name, path) for path in paths}

    return Kind(help, read, lambda frames, path: _write_folder(
        {f"{each}.parquet": frame for each, frame in frames.items()}, path,
        lambda frame, part: tables.write(frame, name, part)))


def csv(help: str) -> Kind:
    return Kind(help, write=_write_csv)


def csv_folder(help: str) -> Kind:
    return Kind(help, write=lambda frames, path: _write_folder(
        {f"{each}.csv": frame for each, frame in frames.items()}, path, _write_csv))


def json(help: str) -> Kind:
    return Kind(help, read_json, lambda content, path: write_json(path, content, DIGITS))


def json_folder(help: str) -> Kind:
    return Kind(help, write=lambda contents, path: _write_folder(
        {f"{each}.json": content for each, content in contents.items()}, path,
        lambda content, part: write_json(part, content, DIGITS)))


def text(help: str) -> Kind:
    return Kind(help, write=_write_text)


COUNTS = json("what the stage counted or reached (JSON)")


@dataclass(frozen=True)
class Stage:
    """What a stage is.

    Attributes:
        name: of its script.
        description: the script's docstring.
        compute: the function; it returns what is written, a tuple in the order of `writes`, or the thing itself where
            there is one; None where it said why there is nothing to write.
        params: the sections of params.yaml that it uses. DVC lists the same.
        reads: the inputs, by their options' names.
        writes: the outputs, likewise.
        options: further options by name, each with keyword arguments of `add_argument`: what cannot change a result.
        resumes: whether `compute` gets `scratch`, a folder outside the workspace that is found again by the same
            params, inputs and code only, and goes when the outputs are safe; one run at a time has it.
        shares: whether several processes share the work (common/processes.py), of which the first writes; else the
            first does it alone.
        message: the line at the end, from the command line's arguments and what was computed.
        pipeline: the dvc.yaml that it stands in; none for what is run by hand.
    """

    name: str
    description: str
    compute: Callable[..., Any]
    params: type[Section]
    reads: Mapping[str, Kind]
    writes: Mapping[str, Kind]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    resumes: bool = False
    shares: bool = False
    message: Callable[..., str] | None = None
    pipeline: str = "dvc.yaml"

    def parser(self) -> argparse.ArgumentParser:
        target = "" if self.pipeline == "dvc.yaml" else f" {self.pipeline}"
        epilog = _EPILOG.format(target, self.pipeline) if self.pipeline else None
        parser = argparse.ArgumentParser(prog=f"python -m stages.{self.name}", description=self.description,
                                         epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--params", type=Path, default=PARAMS, help="the settings (default: %(default)s)")
        for name, kind in {**self.reads, **self.writes}.items():
            parser.add_argument(_option(name), type=Path, required=not kind.optional, help=kind.help)
        for name, settings in self.options.items():
            parser.add_argument(_option(name), **settings)
        return parser

    def main(self) -> None:
        """Do what the command line says."""
        args = self._arguments()
        if not self.shares and not self._does_it_alone():
            return
        params = read_params(self.params, args.params)
        # what is wrong with another stage's section shows now, not hours later; by name, since no stage depends on it
        import_module("stages.params").read_all(args.params)
        paths = {name: getattr(args, name) for name in {**self.reads, **self.writes}}
        given: dict[str, Any] = {
            name: None if paths[name] is None else kind.read(paths[name]) for name, kind in self.reads.items()
        }
        given |= {name: getattr(args, name) for name in self.options}
        given |= {name: paths[name] for name, kind in self.writes.items() if kind.grows}
        with ExitStack() as stack:
            if self.resumes:
                key = fingerprint(params.model_dump(), [*filter(None, map(paths.get, self.reads)), CODE])
                given["scratch"] = stack.enter_context(checkpoints(self.name, key))
            if launch.count() > 1:
                from stages.common.processes import together  # imports torch

                stack.enter_context(together())
            for name, kind in {**self.reads, **self.writes}.items():
                if paths[name] is not None:
                    stack.enter_context(kind.reading(paths[name]))
                if kind.streamed:
                    given[name] = stack.enter_context(atomic_file(paths[name]))
            made = self.compute(**given, params=params)
            if made is None or not launch.is_first():
                return
            results = made if isinstance(made, tuple) else (made,)
            written = {name: kind.write for name, kind in self.writes.items() if kind.write}
            for (name, write), result in zip(written.items(), results, strict=True):
                if paths[name] is not None:
                    write(result, paths[name])
        if self.message:
            console.print(self.message(args, *results), soft_wrap=True)

    def _arguments(self) -> argparse.Namespace:
        if launch.is_first():
            return self.parser().parse_args()
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            return self.parser().parse_args()

    def _does_it_alone(self) -> bool:
        """Whether this is the process that does what several cannot share."""
        first = launch.is_first()
        if launch.count() > 1:
            console.print(f"{self.name}: one process does this, and the {launch.count() - 1} beside it nothing")
        launch.forget()
        return first

    def run(self) -> NoReturn:
        """`main`, as a process: it exits."""
        run(self.main)


def at_least_1(text: str) -> int:
    """Type of an option that is a whole number of 1 or more."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number of 1 or more is needed")
    return number


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _write_csv(frame: pl.DataFrame, path: Path) -> None:
    with atomic_file(path) as part:
        frame.with_columns(pl.col(pl.Float64).round(_DIGITS)).write_csv(part)


def _write_text(content: str, path: Path) -> None:
    with atomic_file(path) as part:
        part.write_text(content, encoding="utf-8")


def _write_folder(contents: Mapping[str, Any], path: Path, write: Callable[[Any, Path], None]) -> None:
    """Each of `contents` as a file of its name: all or none."""
    with atomic_folder(path) as folder:
        for name, content in contents.items():
            write(content, folder / name)
