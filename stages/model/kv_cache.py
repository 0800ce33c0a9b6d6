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
        self.bytes = 0  # of the buffers that are this cache's own

    def reserve(self, more: int) -> None:
        """Make room for `more` tokens behind the present ones."""
        if not self._has_room(more):
            room = _room(self.size + more)
            for number, layer in enumerate(self.layers):  # one by one, so that not all are held twice
                self.layers[number] = tuple(_grow(part, self.size, room) for part in layer)
            self.bytes = sum(part.nbytes for layer in self.layers for part in layer)

    def bytes_with(self, more: int) -> int:
        """What `bytes` is after `reserve(more)`."""
        if self._has_room(more):
            return self.bytes
        # what one token takes is the same in all layers
        return sum(part[:, :, :1].nbytes for layer in self.layers for part in layer) * _room(self.size + more)

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

    def _has_room(self, more: int) -> bool:
        return self.size + more <= self.layers[-1][0].shape[2]


def _room(size: int) -> int:
    return size + size // 4 + 32


def _grow(part: torch.Tensor, size: int, room: int) -> torch.Tensor:
    buffer = part.new_empty(*part.shape[:2], room, part.shape[3])
    buffer[:, :, :size] = part[:, :, :size]
    return buffer
