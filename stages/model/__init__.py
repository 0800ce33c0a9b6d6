"""The language model: resolve, load, adapt, weigh candidates, train."""
