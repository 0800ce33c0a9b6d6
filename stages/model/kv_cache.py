"""The keys and values of a text that grows at its end, and can be cut back to any length."""

import torch

KeysAndValues = list[tuple[torch.Tensor, torch.Tensor]]  # a layer each


class Store:
    """Keys and values (1, kv, `size`, D) of each layer, in buffers that grow as needed."""

    def __init__(self, beginning: KeysAndValues):
        """Of what was read so far, which is copied, with room for more, when something is read behind it."""
        self.size = beginning[0][0].shape[2]
        self.layers = list(beginning)

    def reserve(self, more: int) -> None:
        """See that `more` tokens fit behind the present ones."""
        if self.size + more > self.layers[0][0].shape[2]:
            room = 2 * (self.size + more)
            self.layers = [tuple(_grown(part, self.size, room) for part in layer) for layer in self.layers]

    def past(self) -> KeysAndValues:
        """Views of all that is kept."""
        return [(keys[:, :, : self.size], values[:, :, : self.size]) for keys, values in self.layers]

    def append(self, own: KeysAndValues) -> None:
        """Keep what was read behind it."""
        new = own[0][0].shape[2]
        self.reserve(new)
        for layer, fresh in zip(self.layers, own, strict=True):
            for part, more in zip(layer, fresh, strict=True):
                part[:, :, self.size : self.size + new] = more
        self.size += new


def _grown(part: torch.Tensor, size: int, room: int) -> torch.Tensor:
    grown = part.new_empty(*part.shape[:2], room, part.shape[3])
    grown[:, :, :size] = part[:, :, :size]
    return grown
