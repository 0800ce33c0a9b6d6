"""Keys and values of a text that grows at its end and can be cut back to any length."""

import torch

KeysAndValues = list[tuple[torch.Tensor, torch.Tensor]]  # one pair a layer


class KVCache:
    """Keys and values (1, kv, `size`, D) of each layer, in buffers that grow as needed.

    To cut the text back, lower `size`.
    """

    def __init__(self, past: KeysAndValues):
        """Begin with what was read before; it is copied, with room for more, once something is read behind it."""
        self.size = past[0][0].shape[2]
        self.layers = list(past)

    def reserve(self, more: int) -> None:
        """Make room for `more` tokens behind the present ones."""
        if self.size + more > self.layers[0][0].shape[2]:
            room = 2 * (self.size + more)
            self.layers = [tuple(_grow(part, self.size, room) for part in layer) for layer in self.layers]

    def past(self) -> KeysAndValues:
        """Views of all that is kept."""
        return [(keys[:, :, : self.size], values[:, :, : self.size]) for keys, values in self.layers]

    def append(self, new: KeysAndValues) -> None:
        """Keep what was read behind it."""
        more = new[0][0].shape[2]
        self.reserve(more)
        for buffers, parts in zip(self.layers, new, strict=True):
            for buffer, part in zip(buffers, parts, strict=True):
                buffer[:, :, self.size : self.size + more] = part
        self.size += more


def _grow(part: torch.Tensor, size: int, room: int) -> torch.Tensor:
    buffer = part.new_empty(*part.shape[:2], room, part.shape[3])
    buffer[:, :, :size] = part[:, :, :size]
    return buffer
