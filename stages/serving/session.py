"""One prediction at a time: what a user's events left in the model is kept, and each new event is read once.

A prompt of layout `stream` grows at its end, so the keys and values of everything before stay valid. They would not
when the oldest event falls out of the history; so the history grows from L to 2 L events, while a second context, which
begins L events later, follows at some distance and takes over when the first is full. Each event is read twice in its
life, and nothing is ever read again, unless the limit of tokens comes before 2 L events: then the later half is read
anew. Or unless keys and values were let go of to make room for others': then the events, which stay, are read anew at
the next question, the same ones as if nothing had been let go of.
"""

from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import torch
from transformers import PreTrainedModel

from stages.model.kv_cache import KVCache
from stages.model.likelihood import prefill
from stages.model.llama import JoinedLinear
from stages.model.reader import Reader, Segment
from stages.model.readers import make_reader
from stages.model.tree import AnswerTree, additive, token_log_probs

_TOKENS_AHEAD = 48  # of the second context that are read at once: it can wait, and few cost almost as much as many
_GUESSED_TOKENS = 16  # of answers that are read before it is known whether they are needed


@dataclass(frozen=True)
class Scored:
    """The likeliest candidates, best first, and the bounds of each one's probability (equal where it is exact)."""

    candidates: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass
class _Context:
    """The user's latest events behind the prefix: how many they are, their tokens, and what of them is read."""

    cache: KVCache
    events: int = 0
    tokens: int = 0

    def append(self, event: Sequence[int]) -> None:
        self.events += 1
        self.tokens += len(event)


@dataclass(frozen=True)
class _Answers:
    """Candidates' tokens as they are read, and which of them each candidate consists of `(A, T)`."""

    tree: AnswerTree
    nodes: np.ndarray

    @classmethod
    def of(cls, answers: Sequence[Sequence[int]]) -> "_Answers":
        tree = AnswerTree.build(answers)
        nodes = np.zeros((len(answers), len(tree.tokens)), dtype=bool)
        inner = tree.step_source >= 0
        nodes[tree.step_answer[inner], tree.step_source[inner]] = True
        return cls(tree, nodes)

    @property
    def bytes(self) -> int:
        return self.nodes.nbytes + sum(value.nbytes for value in vars(self.tree).values() if hasattr(value, "nbytes"))


class SharedModel:
    """A model ready to score candidates behind prompts that begin alike: what the sessions of all users share."""

    def __init__(
        self, model: PreTrainedModel, prefix: Sequence[int], answers: Sequence[Sequence[int]], length: int,
        max_tokens: int,
    ):
        """Read the prefix.

        Args:
            model: adapters merged.
            prefix: tokens that every prompt begins with.
            answers: tokens of each candidate and its terminator.
            length: L, events of history; a session uses up to 2 L - 1.
            max_tokens: longest prompt with an answer.
        """
        model.eval()
        with torch.inference_mode():
            # oneDNN refuses to reorder bf16 weights where the CPU has no instructions for them
            few_tokens = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
            self.reader: Reader = make_reader(model, few_tokens)
            past = prefill(self.reader, torch.tensor(prefix, device=model.device))
            assert past is not None, "an empty prefix"
            self.past = past
            self.head = JoinedLinear([model.get_output_embeddings()], few_tokens)
        self.device, self.answers, self.all = model.device, answers, _Answers.of(answers)
        self.begin, self.last, self.length = len(prefix), prefix[-1], length
        self.room = max_tokens - len(prefix) - max(map(len, answers))


class Session:
    """A user's state. `score` returns what `likelihood.score` gives for the prompt prefix + history + context.

    Candidates are the answers that all share, and behind them the user's own (see `know`), scored alike by their names.
    """

    def __init__(self, shared: SharedModel):
        self.shared = shared
        self.own: list[Sequence[int]] = []
        self._all: _Answers | None = shared.all  # None: to be made
        # tokens of the latest events, and which candidate each was; all else can be made of them again
        self.recent: deque[Sequence[int]] = deque(maxlen=2 * shared.length)
        self.done: deque[int] = deque(maxlen=2 * shared.length)
        self.prior = np.zeros(len(shared.answers), dtype=np.float32)
        self.current: _Context
        self.following: _Context | None
        # what the last prediction read and may still be of use: its context, and tokens of answers behind it
        self.context: list[int]
        self.read: np.ndarray
        self._restart(0)

    def append(self, event: Sequence[int], candidate: int) -> None:
        """The user did something.

        Args:
            event: tokens of its label, and of its context before or behind it.
            candidate: which it was, -1 for none of them.
        """
        self._remember(event, candidate)
        if self.following is None and self.current.events >= self.shared.length:
            self.following = _Context(KVCache(self.shared.past))
        came_true = list(event[: len(self.context)]) == self.context  # then it stays, and is read already
        self._drop_answers(0 if came_true else len(self.context))
        for context in filter(None, (self.current, self.following)):
            context.append(event)
        if self.current.events >= 2 * self.shared.length or self.current.tokens > self.shared.room:
            self._shorten()

    def extend(self, events: Iterable[tuple[Sequence[int], int]]) -> None:
        """Append many: only the last L are read, at the next prediction."""
        for event, candidate in events:
            self._remember(event, candidate)
        self._restart(min(len(self.recent), self.shared.length))

    def know(self, own: Sequence[Sequence[int]]) -> None:
        """Have the user's own candidates, tokens of each, behind those that all share; in place of earlier ones."""
        if list(own) == self.own:
            return
        if list(own[: len(self.own)]) != self.own:  # their numbers mean others now, which only guesses were made by
            self.done = deque([number if number < len(self.shared.answers) else -1 for number in self.done],
                              self.done.maxlen)
        self._drop_answers(len(self.context))
        self.own = list(own)
        self._all = None if self.own else self.shared.all
        self.prior = np.zeros(len(self.shared.answers) + len(self.own), dtype=np.float32)

    @property
    def tree(self) -> AnswerTree:
        """Of all candidates."""
        return self._made().tree

    def _made(self) -> _Answers:
        if self._all is None:
            self._all = _Answers.of([*self.shared.answers, *self.own])
        return self._all

    def history(self) -> list[int]:
        """Tokens of the events that the last prediction saw, and of those since, oldest first."""
        return self._tokens(self.current)

    @property
    def bytes(self) -> int:
        """Of the keys and values, and of candidates' tokens, that are kept for this user alone."""
        return self._own_bytes + sum(context.cache.bytes for context in (self.current, self.following) if context)

    @property
    def _own_bytes(self) -> int:
        return self._all.bytes if self._all and self._all is not self.shared.all else 0

    def bytes_to_answer(self, context: Sequence[int]) -> int:
        """What `bytes` is, at most, while and after a question with this context is answered."""
        current, following = self.current, self.following
        needed = current.cache.bytes_with(self._unread(current) + len(context) + len(self.tree.tokens) + 1)
        needed += self._own_bytes
        if following:
            needed += following.cache.bytes_with(self._unread(following))
        return needed

    def let_go(self) -> None:
        """Keep the events alone, without keys and values: the next question reads them anew, to the same answer."""
        self.context, self.read = [], np.zeros(0, dtype=np.int64)
        self._all = None if self.own else self.shared.all
        for context in filter(None, (self.current, self.following)):
            context.cache = KVCache(self.shared.past)

    @torch.inference_mode()
    def score(self, context: Sequence[int], top: int | None = None) -> Scored:
        """The likeliest candidates for an event with this context (tokens; none where prompts hold none).

        Args:
            top: how many; the order is exact, and answers that cannot be among them are not read, so probabilities come
                with bounds. None: all, exactly.
        """
        self._drop_answers(len(self.context))
        while self.current.events and self.current.tokens + len(context) > self.shared.room:
            self._shorten()
        if not context and not self._unread(self.current):
            self._unread_last()
        log_p = np.full(len(self.tree.step_source), np.nan)  # of each step of the tree
        self._read_prompt(context, np.arange(len(self.tree.tokens)) if top is None else self._guess(), log_p)
        while True:
            bound, complete = self._bounds(log_p)
            needed = self._undecided(bound, complete, top or len(bound))
            if not needed.any():
                break
            self._read_answers(np.setdiff1d(np.flatnonzero(self._made().nodes[needed].any(axis=0)), self.read), log_p)
        best = np.argsort(-np.where(complete, bound, -np.inf), kind="stable")[:top]
        ceiling, floor = np.logaddexp.reduce(bound), np.logaddexp.reduce(bound[complete])
        self.prior = np.exp(bound - ceiling).astype(np.float32)
        return Scored(best, np.exp(bound[best] - ceiling), np.exp(bound[best] - floor))

    def _read_prompt(self, context: Sequence[int], nodes: np.ndarray, log_p: np.ndarray) -> None:
        """Read what is pending, the context, some answer tokens, and the second context's events, all at once."""
        current, following, prompt = self.current, self.following, [*self._pending(self.current), *context]
        if following and self._unread(following) < _TOKENS_AHEAD:
            following = None  # it waits
        ahead = self._pending(following) if following else []
        end, size = self.shared.begin + current.tokens + len(context), len(prompt) + len(nodes)
        allowed = np.tri(size, dtype=bool)
        allowed[len(prompt) :, len(prompt) :] = self.tree.ancestors[np.ix_(nodes, nodes)]
        ids = np.concatenate([prompt, self.tree.tokens[nodes], ahead])
        positions = np.concatenate([
            np.arange(end - len(prompt), end), end + self.tree.depth[nodes],
            np.arange(len(ahead)) + (following.cache.size if following else 0),
        ])
        segments = [Segment(current.cache, size, self._mask(allowed))]
        if following:
            segments.append(Segment(following.cache, len(ahead)))
        hidden = self._read(ids, positions, segments)
        self.context, self.read = list(context), nodes
        self._score_steps(hidden[len(prompt) - 1 : size], np.concatenate([[-1], nodes]), log_p)

    def _read_answers(self, nodes: np.ndarray, log_p: np.ndarray) -> None:
        """Read further answer tokens behind the prompt and those read before."""
        end, read = self.current.cache.size - len(self.read), np.concatenate([self.read, nodes])
        segment = Segment(self.current.cache, len(nodes), self._mask(self.tree.ancestors[np.ix_(nodes, read)]))
        hidden = self._read(self.tree.tokens[nodes], end + self.tree.depth[nodes], [segment])
        self.read = read
        self._score_steps(hidden, nodes, log_p)

    def _read(self, ids: np.ndarray, positions: np.ndarray, segments: list[Segment]) -> torch.Tensor:
        ids, positions = (torch.from_numpy(n.astype(np.int64)).to(self.shared.device) for n in (ids, positions))
        return self.shared.reader.extend(ids, positions, segments).to(self.shared.head.weight.dtype)

    def _mask(self, allowed: np.ndarray) -> torch.Tensor:
        return additive(allowed, self.shared.past[0][0].dtype).to(self.shared.device)

    def _drop_answers(self, context: int) -> None:
        """Cut the answers that the last prediction read off the cache, and its last `context` tokens before them."""
        self.current.cache.size -= len(self.read) + context
        self.read, self.context = np.zeros(0, dtype=np.int64), []

    def _unread_last(self) -> None:
        """Have the last token read again: answers are scored behind it, and nothing else is there to be read."""
        cache = self.current.cache
        cache.reserve(1)  # makes the copy that is written to, not the prefix that all sessions share
        cache.size -= 1

    def _score_steps(self, hidden: torch.Tensor, sources: np.ndarray, log_p: np.ndarray) -> None:
        """Fill in the log-probability of each step of the tree that leaves from one of `sources` (-1: the prompt)."""
        rows = np.searchsorted(sources, self.tree.step_source).clip(max=len(sources) - 1)
        steps = np.flatnonzero(sources[rows] == self.tree.step_source)
        found = token_log_probs(hidden, rows[steps], self.tree.step_target[steps], self.shared.head)
        log_p[steps] = found.cpu().numpy()

    def _undecided(self, bound: np.ndarray, complete: np.ndarray, top: int) -> np.ndarray:
        """Which answers not yet read whole might be among the best `top`."""
        if complete.sum() >= top:
            return ~complete & (bound >= np.partition(bound[complete], -top)[-top])
        promising = np.zeros_like(complete)
        promising[np.argsort(-bound, kind="stable")[:top]] = True
        return ~complete & promising

    def _bounds(self, log_p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Upper bound of each candidate's log-likelihood by the steps known so far, and whether these are all."""
        missing = np.isnan(log_p)
        bound = np.bincount(self.tree.step_answer, np.where(missing, 0, log_p), minlength=self.tree.answers)
        return bound, np.bincount(self.tree.step_answer, missing, minlength=self.tree.answers) == 0

    def _guess(self) -> np.ndarray:
        """Tokens of the answers that are likely to be needed, by the last prediction and the history."""
        done = np.array([candidate for candidate in self.done if candidate >= 0], dtype=np.int64)
        counts = np.bincount(done, minlength=self.tree.answers)
        nodes = np.zeros(len(self.tree.tokens), dtype=bool)
        for candidate in np.argsort(-(self.prior + counts / max(len(done), 1)), kind="stable"):
            more = nodes | self._made().nodes[candidate]
            if more.sum() > _GUESSED_TOKENS and nodes.any():
                break
            nodes = more
        return np.flatnonzero(nodes)

    def _remember(self, event: Sequence[int], candidate: int) -> None:
        self.recent.append(event if isinstance(event, array) else array("I", event))
        self.done.append(candidate)

    def _tokens(self, context: _Context) -> list[int]:
        """Tokens of a context's events, oldest first."""
        return list(chain.from_iterable(islice(self.recent, len(self.recent) - context.events, None)))

    def _unread(self, context: _Context) -> int:
        """How many of a context's tokens are not read yet; what answers read must be cut off before."""
        return self.shared.begin + context.tokens - context.cache.size

    def _pending(self, context: _Context) -> list[int]:
        """The tokens that are not read yet; where there are no events, the prefix's last may be among them."""
        unread = self._unread(context)
        return [self.shared.last, *self._tokens(context)][-unread:] if unread else []

    def _shorten(self) -> None:
        """Go on with the second context, or read the later half of the events anew where that is longer."""
        kept = self.current.events // 2
        if self.following is None or self.following.events < kept:  # the limit came before it was of use
            self._restart(kept)
        else:
            self.current, self.following = self.following, None

    def _restart(self, events: int) -> None:
        """Have the latest `events` events read anew, or as many of them as there is room for."""
        self.current, self.following = _Context(KVCache(self.shared.past)), None
        self.context, self.read = [], np.zeros(0, dtype=np.int64)
        for event in islice(reversed(self.recent), events):
            if self.current.tokens + len(event) > self.shared.room:
                break
            self.current.append(event)
