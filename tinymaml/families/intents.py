"""Few-shot classification of intents: what does a sentence ask for? CLINC150 (Larson et al., 2019), split by domain.

    tasks = IntentTasks("data/clinc150", ways=5, shots=1)
    (xs, ys), (xq, yq) = tasks.sample(rng, 16, "train")
    xs["ids"], xs["weights"]                    # (16, N, 32): the words of each sentence, and their weights
    xs["features"]                              # (16, N, 2048): the same in so many numbers, whatever is learned

The domains of test and of validation are never trained on: all their intents are new, and so are many of their words.
A sentence is a bag of words. The number of a word is crc32(word) mod `vocabulary`: there is no list of words that could
tell anything of the test, and a word that training never saw has a row of the embedding still, as it was drawn. The
weight of a word is its tf-idf, scaled to the norm 1 per sentence, where only sentences of TRAINING domains are counted:

    tf · (log((1 + n) / (1 + n_word)) + 1),   n_word of the n sentences have the word; 0, if it is unknown

The features are the hashed bag of words (Weinberger et al., 2009): Σ weight · sign(word) at place (word), both from
crc32, times 2. Their inner products are those of the bags, up to noise of the order 1 / √2048: what is learned begins
near the baseline, and the embedding, which is 2 times smaller, adds what training domains teach.

An intent is a class. Its sentences are those of the data's own three parts together (150), each bag of words once: of
two sentences with the same words, one could be support and the other query. A bag that two intents share tells neither,
and is left out, and so are the sentences out of scope. Read next: `robot`.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ..files import expanded
from ..runs.settings import option
from .common import accuracy, check_counts, check_draw, check_dtype, classification, digest
from .episodes import LABELS, LABELS_HELP, Episodes, Examples, Sampler
from .reading import open_data, read_one

SCALE = 2  # of the features: the norm of a sentence's
LENGTH = 32  # different words of a sentence; CLINC150 has at most 27
PARTS, FILES = ("train", "val", "test"), ("data_full.json", "domains.json")
ADVICE = "`tinymaml data clinc150 --to DIR` downloads data_full.json and domains.json"
TEST, VAL = ("travel", "utility", "work"), ("small_talk",)
_WORD = re.compile(r"\w+(?:['’]\w+)*")

defaults: dict[str, Any] = dict(
    network="embedding", embed=64, hidden=(), inner_steps=5, inner_lr=4.0, meta_lr=0.002, decay=1000, tasks=8,
    iterations=600, save_every=200, validate_every=100,
)  # fmt: skip

# Chosen on validation tasks, of few candidates each.
defaults_for: dict[str, dict[str, Any]] = {
    "protomaml": dict(adapts="head", inner_steps=3, inner_lr=0.1, tasks=16, iterations=500),
    "anil": dict(tasks=16, iterations=800),
    "reptile": dict(meta_lr=0.01),
}


@dataclass(frozen=True)
class Settings:
    """Options of intents."""

    data: str = option("", "folder of data_full.json and domains.json", path=True)
    ways: int = option(5, "intents of a task", least=2)
    shots: int = option(1, "support sentences of each intent", least=1)
    queries: int = option(15, "query sentences of each intent", least=1)
    test_domains: tuple[str, ...] = option(TEST, "domains whose intents are for test")
    val_domains: tuple[str, ...] = option(VAL, "domains whose intents are for validation; training has the others")
    vocabulary: int = option(8192, "numbers that words are hashed to", least=2)
    hashed: int = option(2048, "features of a sentence: numbers in its hashed bag of words", least=1)
    labels: str = option("task", LABELS_HELP, choices=LABELS, training=True)


def make(settings: Settings) -> IntentTasks:
    """The family with these settings. Its sentences are read when the first task is drawn."""
    s = settings
    if not s.data:
        raise ValueError(f"intents needs its sentences: --data PATH; {ADVICE}")
    domains = s.test_domains, s.val_domains
    return IntentTasks(s.data, s.ways, s.shots, s.queries, *domains, s.vocabulary, s.hashed, s.labels)


def read(path: Path, settings: Settings) -> dict[str, np.ndarray]:
    """A sentence of a user's, alone in a text file: x as `IntentTasks.sample` draws it, of one example.

    Raises:
        ValueError: it is no text in UTF-8, or has no words.
        ValueError, FileNotFoundError: the data, which the weights of words are from, cannot be read: --data says where.
    """
    try:
        text = read_one(path, "a text file").decode("utf-8")
    except UnicodeDecodeError as cause:
        raise ValueError(f"{path} is no text in UTF-8: {cause}") from cause
    if not words(text):
        raise ValueError(f"{path} has no words")
    family = _same(settings)
    return {name: part[0] for name, part in family.inputs(*family.bags([text])).items()}


_same = lru_cache(maxsize=1)(make)  # so that the data are read once for many sentences


def pictures(learned) -> Iterator[tuple[str, Any]]:
    """Test tasks: the support sentences of each intent, and what is predicted for queries before and after."""
    from ..pictures import sentences

    yield "sentences", sentences.predictions(learned)


class IntentTasks:
    """Tell `ways` intents apart after reading `shots` sentences of each.

    Where validation has fewer intents than `ways`, its tasks are of all that it has.

    Attributes:
        content: the intents and their sentences.
        splits: {"train", "val", "test"}: the intents of each, as places in `content.intents`.

    Raises:
        ValueError: a count below 1; when data are read, a broken file, a domain that is not there or in two splits, or
            too few intents or sentences.
        FileNotFoundError: when data are read, a file is missing.
    """

    input_shape = (LENGTH,)
    loss = staticmethod(classification)
    metric = property(lambda self: accuracy(self.ways))

    def __init__(
        self, path: str, ways: int = 5, shots: int = 1, queries: int = 15, test_domains: Sequence[str] = TEST,
        val_domains: Sequence[str] = VAL, vocabulary: int = 8192, hashed: int = 2048, labels: str = "task",
        dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        check_counts(ways=ways, shots=shots, queries=queries, vocabulary=vocabulary, hashed=hashed)
        self.path, self.ways, self.shots, self.queries = path, ways, shots, queries
        self.domains = {"val": tuple(val_domains), "test": tuple(test_domains)}
        self.vocabulary, self.features, self.labels, self.dtype = vocabulary, hashed, labels, check_dtype(dtype)

    @property
    def outputs(self) -> int:
        return self.ways if self.labels == "task" else len(self.splits["train"])

    @cached_property
    def content(self) -> Content:
        return load(self.path)

    @cached_property
    def splits(self) -> dict[str, list[int]]:
        known = sorted(set(self.content.domains))
        of_split: dict[str, str] = {}
        for split, domains in self.domains.items():
            for domain in domains:
                if domain not in known:
                    raise ValueError(f"{split}_domains has {domain!r}; {self.path} has {', '.join(known)}")
                if of_split.setdefault(domain, split) != split:
                    raise ValueError(f"the domain {domain!r} is in val_domains and in test_domains")
        found: dict[str, list[int]] = {"train": [], "val": [], "test": []}
        for i, domain in enumerate(self.content.domains):
            found[of_split.get(domain, "train")].append(i)
        return found

    @cached_property
    def samplers(self) -> dict[str, Sampler]:
        """Of each split."""
        sizes = [len(sentences) for sentences in self.content.sentences]
        found = {}
        for split, intents in self.splits.items():
            ways = max(min(self.ways, len(intents)), 2) if split == "val" else self.ways
            labels = self.labels if split == "train" else "task"
            found[split] = Sampler(sizes, {split: intents}, ways, self.shots, self.queries, self.name, labels)
        return found

    def name(self, c: int) -> str:
        return f"the intent {self.content.intents[c]!r}"

    @cached_property
    def counts(self) -> tuple[int, Counter[str]]:
        """How many sentences training domains have, and in how many of them each word is."""
        sentences = [sentence for i in self.splits["train"] for sentence in self.content.sentences[i]]
        return len(sentences), Counter(word for sentence in sentences for word in set(words(sentence)))

    def bags(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The words of sentences, their crc32 as int64 (N, 32), and their weights (N, 32): 0 after a sentence's end."""
        n, of_word = self.counts
        codes, weights = np.zeros((len(sentences), LENGTH), np.int64), np.zeros((len(sentences), LENGTH))
        for i, sentence in enumerate(sentences):
            for j, (word, times) in enumerate(Counter(words(sentence)).most_common(LENGTH)):
                codes[i, j] = zlib.crc32(word.encode())
                weights[i, j] = times * (np.log((1 + n) / (1 + of_word[word])) + 1)
        return codes, weights / np.linalg.norm(weights, axis=1, keepdims=True)

    @cached_property
    def all_bags(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`bags` of all sentences, intent after intent, and where each intent begins."""
        starts = np.cumsum([0, *map(len, self.content.sentences)])
        return *self.bags([sentence for sentences in self.content.sentences for sentence in sentences]), starts

    def inputs(self, codes: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        """x of words as `bags` gives them, (…, 32)."""
        signs, places = 1 - 2 * (codes >> 31), codes // self.vocabulary % self.features
        features = np.zeros((weights.size // LENGTH, self.features), self.dtype)
        rows = np.arange(len(features))[:, None]
        np.add.at(features, (rows, places.reshape(-1, LENGTH)), (SCALE * signs * weights).reshape(-1, LENGTH))
        features = features.reshape(*weights.shape[:-1], self.features)
        return {"ids": codes % self.vocabulary, "weights": weights.astype(self.dtype), "features": features}

    def episodes(self, rng: np.random.Generator, tasks: int, split: str) -> Episodes:
        """Choose the sentences of `tasks` tasks. All randomness is here."""
        check_draw(tasks, split)
        return self.samplers[split].sample(rng, tasks, split)

    def sample(self, rng: np.random.Generator, tasks: int, split: str) -> tuple:
        """((xs, ys), (xq, yq)): xs {"ids": int64 (tasks, ways * shots, 32), "weights" of that shape, "features" (tasks,
        ways * shots, hashed)}, and ys int64 (tasks, ways * shots); xq and yq with ways * queries."""
        episodes = self.episodes(rng, tasks, split)
        return tuple((self.words_of(part), part.labels) for part in (episodes.support, episodes.query))

    def words_of(self, examples: Examples) -> dict[str, np.ndarray]:
        """The words of chosen examples."""
        codes, weights, starts = self.all_bags
        rows = starts[examples.classes] + examples.numbers
        return self.inputs(codes[rows], weights[rows])

    def fingerprint(self) -> str:
        return digest(*self.content)

    def baselines(self) -> dict[str, Callable]:
        return {"tf-idf centroids": partial(cosines, ways=self.ways)}


def words(text: str) -> list[str]:
    """The words of a sentence in small letters, in any script."""
    return _WORD.findall(text.lower())


def cosines(xs: dict, ys: np.ndarray, xq: dict, ways: int) -> np.ndarray:
    """The cosine of each query and the sum of each class's sentences, as bags of words: (queries, ways)."""
    found, place = np.unique(np.concatenate([xs["ids"], xq["ids"]]), return_inverse=True)
    weights = np.concatenate([xs["weights"], xq["weights"]])
    vectors = np.zeros((len(weights), len(found)))
    np.add.at(vectors, (np.arange(len(weights))[:, None], place.reshape(weights.shape)), weights)
    support, queries = np.split(vectors, [len(ys)])
    sums = np.stack([support[ys == k].sum(0) for k in range(ways)])
    return queries @ (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).T


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Content(NamedTuple):
    """The intents of a data set, sorted; the domain of each; and the sentences of each, no two with the same words."""

    intents: tuple[str, ...]
    domains: tuple[str, ...]
    sentences: tuple[tuple[str, ...], ...]


def load(path: str) -> Content:
    """Read data_full.json and, from beside it, domains.json.

    Args:
        path: the folder or archive that has both, or data_full.json itself.

    Raises:
        FileNotFoundError: one of them is missing.
        ValueError: one is no JSON, or has another form; an intent has no domain, or two; a sentence has no words.
    """
    place = expanded(path)
    if place.suffix == ".json" and place.is_file():
        place = place.parent
    with open_data(place, ADVICE) as source:
        found = {PurePosixPath(name).name: name for name in reversed(source.names)}
        if missing := [name for name in FILES if name not in found]:
            seen = ", ".join(source.names[:5]) + ", …" * (len(source.names) > 5)
            raise FileNotFoundError(f"{source.path}: no file {missing[0]}; found {seen}; {ADVICE}")
        where, beside = (source.where(found[name]) for name in FILES)
        data, domains = (_json(source.read(found[name]), source.where(found[name])) for name in FILES)
    of_intent = _domains(domains, beside)
    sentences: dict[str, dict[tuple, str]] = {}  # of each intent, by the words
    for part, i, row in _rows(data, where):
        if not (isinstance(row, list) and len(row) == 2 and all(isinstance(x, str) for x in row)):
            raise ValueError(f"{where}: {part}[{i}] is {_short(row)}, wanted [sentence, intent]")
        sentence, intent = row
        if not words(sentence):
            raise ValueError(f"{where}: {part}[{i}] has the sentence {_short(sentence)}, which has no words")
        if intent not in of_intent:
            raise ValueError(f"{where}: {part}[{i}] has the intent {_short(intent)}, which has no domain in {beside}")
        sentences.setdefault(intent, {}).setdefault(tuple(sorted(words(sentence))), sentence)
    shared = Counter(bag for bags in sentences.values() for bag in bags)
    intents = sorted(sentences)
    return Content(
        tuple(intents),
        tuple(of_intent[intent] for intent in intents),
        tuple(tuple(text for bag, text in sentences[intent].items() if shared[bag] == 1) for intent in intents),
    )


def _json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as cause:  # of the JSON, or of the UTF-8
        raise ValueError(f"{where} is no JSON: {cause}") from cause


def _rows(data: Any, where: str) -> Iterator[tuple[str, int, Any]]:
    """(part, i, row i) of all parts."""
    for part in PARTS:
        if not isinstance(data, dict) or not isinstance(data.get(part), list):
            seen = ", ".join(data) if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"{where}: wanted an object with the lists {', '.join(PARTS)}; seen {seen or 'nothing'}")
        yield from ((part, i, row) for i, row in enumerate(data[part]))


def _domains(record: Any, where: str) -> dict[str, str]:
    """The domain of each intent, of {domain: [intent, …]}."""
    found: dict[str, str] = {}
    lists = record.values() if isinstance(record, dict) else [None]
    if not all(isinstance(intents, list) and all(isinstance(x, str) for x in intents) for intents in lists):
        raise ValueError(f"{where}: wanted an object with a list of intents per domain")
    for domain, intents in record.items():
        for intent in intents:
            if found.setdefault(intent, domain) != domain:
                raise ValueError(f"{where}: the intent {intent!r} is of the domains {found[intent]} and {domain}")
    return found


def _short(x: Any) -> str:
    text = repr(x)
    return text if len(text) <= 60 else f"{text[:57]}…"
