"""Rivals: one file per system of the paper's Table 3, and the trivial ones that every learned row must beat.

A new one is

1. a file here: a `Recommender` and `run_system` (command.py) for what is trained from nothing, a `LanguageRow` and
   `run_row` (llm.py) for what is made of a language model; its docstring is its card: what is kept as published, what
   differs and why, which check holds it;
2. a section of params.yaml beside it: the values to try, the default first;
3. its tests in tests/baselines.

`python -m stages.baselines.<name> --help` says how one is fitted; it writes the table `predictions`, of which
`python -m stages.evaluate` makes metrics as of every model's.
"""
