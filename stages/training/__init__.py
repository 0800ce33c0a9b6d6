"""The loop, the objectives and the checkpoints of everything that trains a language model."""
