"""Rivals: one file per system of the paper's Table 3, and the trivial ones that every learned row must beat."""
