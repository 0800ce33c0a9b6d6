"""Baselines: one file for each of the paper's Table 3, its docstring is its card; README.md says how to add one."""
