"""Few-shot classification of intents: what does a sentence ask for? CLINC150 (Larson et al., 2019), split by domain.

    tasks = IntentTasks("data/clinc150", ways=5, shots=1)
    (xs, ys), (xq, yq) = tasks.sample(rng, 16, "train")
    xs["ids"], xs["weights"]                                # (16, N, L): the words of each sentence, and their weights

The domains of `test` and `val` are never trained on: all their intents are new, and many of their words. A sentence is
a bag of words. Each word has the number crc32(word) mod `vocabulary`: that needs no list of words, so that nothing can
leak from one, and a word that training never saw has a row of the embedding still, which is random. Its weight is its
inverse document frequency among the sentences of TRAINING domains, log((1 + n) / (1 + n_word)) + 1, where a word that
they lack has n_word = 0; the weights of a sentence are scaled to the norm 1.

All 150 sentences of an intent (the data's own parts train, val and test) make up its class; sentences out of scope are
left out. Read next: `ratings`.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ..runs.settings import option
from .common import accuracy, check_counts, check_dtype, classification
from .episodes import LABELS, LABELS_HELP, Examples, Sampler
from .reading import opened

PARTS, FILES = ("train", "val", "test"), ("data_full.json", "domains.json")
ADVICE = "`tinymaml data clinc150 --to DIR` downloads data_full.json"
_WORD = re.compile(r"\w+(?:['’]\w+)*")

defaults: dict[str, Any] = dict(
    network="embedding", embed=128, hidden=(), inner_steps=5, inner_lr=0.5, meta_lr=0.003, decay=1000, tasks=8,
    iterations=1000, save_every=250, validate_every=125,
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Options of intents."""

    data: str = option("", "folder of data_full.json and domains.json", path=True)
    ways: int = option(5, "intents of a task", least=2)
    shots: int = option(1, "support sentences of each intent", least=1)
    queries: int = option(5, "query sentences of each intent", least=1)
    test: str = option("travel,utility,work", "domains of test, with commas between")
    val: str = option("small_talk", "domains of validation, with commas between")
    vocabulary: int = option(8192, "numbers that words are hashed to", least=2)
    labels: str = option("task", LABELS_HELP, choices=LABELS, training=True)


def make(settings: Settings) -> IntentTasks:
    """The family with these settings. Its sentences are read when the first task is drawn."""
    s = settings
    if not s.data:
        raise ValueError(f"intents needs its sentences: --data PATH; {ADVICE}")
    return IntentTasks(s.data, s.ways, s.shots, s.queries, s.test, s.val, s.vocabulary, s.labels)


def read(path: Path, settings: Settings) -> dict[str, np.ndarray]:
    """A sentence of a user's, alone in a text file: {"ids", "weights"}, (L,). The weights need the data."""
    text = path.read_bytes().decode("utf-8")  # a UnicodeDecodeError is a ValueError
    family = make(settings)
    if not words(text):
        raise ValueError(f"{path} has no words")
    ids, weights = family.bags([text])
    return {"ids": ids[0], "weights": weights[0].astype(np.float32)}


def pictures(learned) -> Iterator[tuple[str, Any]]:
    """Test tasks: the support sentences of each intent, and what is predicted for queries before and after."""
    from ..pictures import sentences

    yield "sentences", sentences.predictions(learned, learned.learner.family.episodes)


class Content(NamedTuple):
    """intents: names, sorted; domains: of each intent; sentences: of each intent."""

    intents: tuple[str, ...]
    domains: tuple[str, ...]
    sentences: tuple[tuple[str, ...], ...]


class IntentTasks:
    """Tell `ways` intents apart after reading `shots` sentences of each.

    Attributes:
        input_shape: (L,), the words of the longest sentence. The data are read for it.

    Raises:
        ValueError: a count below 1; when data are read, a broken file, an unknown domain, or one in two splits.
        FileNotFoundError: when data are read, a file is missing.
    """

    loss = staticmethod(classification)
    metric = property(lambda self: accuracy(self.ways))

    def __init__(
        self, path: str, ways: int = 5, shots: int = 1, queries: int = 5, test: str = "travel,utility,work",
        val: str = "small_talk", vocabulary: int = 8192, labels: str = "task", dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        check_counts(ways=ways, shots=shots, queries=queries, vocabulary=vocabulary)
        self.path, self.ways, self.shots, self.queries = path, ways, shots, queries
        self.domains = {"test": test.split(","), "val": val.split(",")}
        self.vocabulary, self.labels, self.dtype = vocabulary, labels, check_dtype(dtype)

    @property
    def outputs(self) -> int:
        return self.ways if self.labels == "task" else self.sampler.outputs

    input_shape = (LENGTH := 32,)

    @cached_property
    def content(self) -> Content:
        return load(self.path)

    @cached_property
    def splits(self) -> dict[str, list[int]]:
        """The intents of each split, as places in `content.intents`."""
        known, of_split = sorted(set(self.content.domains)), {}
        for split, domains in self.domains.items():
            for domain in domains:
                if domain not in known:
                    raise ValueError(f"{split} is {','.join(domains)}; the domains of {self.path}: {', '.join(known)}")
                if domain in of_split:
                    raise ValueError(f"the domain {domain} is of {of_split[domain]} and of {split}")
                of_split[domain] = split
        found: dict[str, list[int]] = {"train": [], "val": [], "test": []}
        for i, domain in enumerate(self.content.domains):
            found[of_split.get(domain, "train")].append(i)
        return found

    @cached_property
    def sampler(self) -> Sampler:
        sizes = [len(sentences) for sentences in self.content.sentences]
        name = lambda c: f"the intent {self.content.intents[c]}"  # noqa: E731
        return Sampler(sizes, self.splits, self.ways, self.shots, self.queries, name, self.labels)

    @cached_property
    def counts(self) -> tuple[int, Counter[str]]:
        """How many sentences training domains have, and how many of them each word is in."""
        sentences = [text for i in self.splits["train"] for text in self.content.sentences[i]]
        return len(sentences), Counter(word for text in sentences for word in set(words(text)))

    def bags(self, texts) -> tuple[np.ndarray, np.ndarray]:
        """The words of sentences, int64 (N, L), and their weights, (N, L): 0 where a sentence has ended."""
        n, of_word = self.counts
        ids, weights = np.zeros((len(texts), *self.input_shape), np.int64), np.zeros((len(texts), *self.input_shape))
        for i, text in enumerate(texts):
            bag = Counter(words(text)).most_common(self.input_shape[0])
            for j, (word, times) in enumerate(bag):
                ids[i, j] = zlib.crc32(word.encode()) % self.vocabulary
                # tf · idf,   idf = log((1 + n) / (1 + n_word)) + 1
                weights[i, j] = times * (np.log((1 + n) / (1 + of_word[word])) + 1)
        return ids, weights / np.linalg.norm(weights, axis=1, keepdims=True)

    @cached_property
    def _bags(self) -> tuple[np.ndarray, np.ndarray]:
        return self.bags([text for sentences in self.content.sentences for text in sentences])

    def episodes(self, rng: np.random.Generator, tasks: int, split: str):
        return self.sampler.sample(rng, tasks, split)

    def sample(self, rng: np.random.Generator, tasks: int, split: str) -> tuple:
        """((xs, ys), (xq, yq)): xs {"ids": int64, "weights"}, both (tasks, ways * shots, L), and ys int64 (tasks,
        ways * shots); xq and yq with ways * queries."""
        episodes = self.episodes(rng, tasks, split)
        return tuple((self._words(part), part.labels) for part in (episodes.support, episodes.query))

    def _words(self, examples: Examples) -> dict[str, np.ndarray]:
        first = np.cumsum([0, *map(len, self.content.sentences)])
        rows = first[examples.classes] + examples.numbers
        ids, weights = self._bags
        return {"ids": ids[rows], "weights": weights[rows].astype(self.dtype)}

    def baselines(self) -> dict[str, Callable]:
        return {"tf-idf centroids": self.nearest}

    def nearest(self, xs: dict, ys: np.ndarray, xq: dict) -> np.ndarray:
        """The cosine of each query and the mean of each class's sentences, as tf-idf vectors: (queries, ways)."""
        rows, place = np.unique(np.concatenate([xs["ids"], xq["ids"]]), return_inverse=True)
        vectors = np.zeros((len(place), len(rows)))
        weights = np.concatenate([xs["weights"], xq["weights"]])
        np.add.at(vectors, (np.arange(len(place))[:, None], place.reshape(weights.shape)), weights)
        support, queries = np.split(vectors, [len(ys)])
        means = np.stack([support[ys == k].sum(0) for k in range(self.ways)])
        return queries @ (means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)).T


def words(text: str) -> list[str]:
    """The words of a sentence in small letters, in any script."""
    return _WORD.findall(text.lower())


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def load(path: str) -> Content:
    """Read data_full.json and, from beside it, domains.json.

    Raises:
        FileNotFoundError: one of them is missing.
        ValueError: one is no JSON, or has another form; an intent has no domain, or two; a sentence has no words.
    """
    place = Path(path).expanduser()
    with opened(place.parent if place.suffix == ".json" else place, ADVICE) as source:
        found = {PurePosixPath(name).name: name for name in reversed(source.names)}
        if missing := [name for name in FILES if name not in found]:
            seen = ", ".join(source.names[:5])
            raise FileNotFoundError(f"{source.path}: no file {missing[0]}; found {seen}; {ADVICE}")
        (data, where), (domains, beside) = (
            (_json(source.read(found[name]), source.where(found[name])), source.where(found[name])) for name in FILES
        )
    of_intent = _domains(domains, beside)
    sentences: dict[str, list[str]] = {}
    for part in PARTS:
        if not isinstance(data, dict) or not isinstance(data.get(part), list):
            raise ValueError(f"{where}: wanted an object with the lists {', '.join(PARTS)}; there is no list {part}")
        for i, row in enumerate(data[part]):
            if not (isinstance(row, list) and len(row) == 2 and all(isinstance(x, str) for x in row)):
                raise ValueError(f"{where}: {part}[{i}] is {row!r:.60}, wanted [sentence, intent]")
            text, intent = row
            if not words(text):
                raise ValueError(f"{where}: {part}[{i}], {text!r:.60}, has no words")
            if intent not in of_intent:
                raise ValueError(f"{where}: {part}[{i}] has the intent {intent!r}, which is in no domain of {beside}")
            sentences.setdefault(intent, []).append(text)
    intents = sorted(sentences)
    # a sentence that an intent has twice could be in support and query
    once = tuple(tuple(dict.fromkeys(sentences[intent])) for intent in intents)
    return Content(tuple(intents), tuple(of_intent[intent] for intent in intents), once)


def _json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as cause:  # of the JSON, or of the UTF-8
        raise ValueError(f"{where} is no JSON: {cause}") from cause


def _domains(record: Any, where: str) -> dict[str, str]:
    """The domain of each intent."""
    found: dict[str, str] = {}
    if not isinstance(record, dict) or not all(isinstance(intents, list) for intents in record.values()):
        raise ValueError(f"{where}: wanted an object with a list of intents per domain")
    for domain, intents in record.items():
        for intent in intents:
            if intent in found:
                raise ValueError(f"{where}: the intent {intent!r} is of the domains {found[intent]} and {domain}")
            found[intent] = domain
    return found
