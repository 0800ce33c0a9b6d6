"""The language model: resolve, load, read, score candidates."""
