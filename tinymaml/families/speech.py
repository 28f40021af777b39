"""Spoken digits of a speaker never heard: the Free Spoken Digit Dataset (Jackson et al.), one speaker left out.

    tasks = SpeechTasks("data/fsdd", speaker="theo", shots=1)
    (xs, ys), (xq, yq) = tasks.sample(rng, 16, "train")     # x (16, N, 26, 16, 1): log-mel spectrograms

A task is one speaker: all ten digits, of each some recordings to learn from, and others to tell. The label of a digit
is the digit itself, so that a network knows digits before it has heard the speaker, and gets used to the speaker by
adaptation. `speaker` is the one of test, the next by name that of validation, and the others are of training. These are
few: with `virtual`, every training task has a virtual speaker, whose voice is moved and coloured at random, and who
speaks each recording at a tempo of its own.

A recording is scaled to 26 mel bands (0 … 4 kHz) and 16 frames. Of each spectrogram its own mean is taken off, and each
band is normalised by the mean and the deviation that it has in recordings of training speakers.

Read next: `intents`, whose examples are sentences.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ..extras import require
from ..runs.settings import option
from .common import SPLITS, accuracy, centroids, check_counts, check_draw, check_dtype, classification, digest
from .episodes import Examples, draw
from .reading import kept, open_data, read_one

BANDS, FRAMES, DIGITS, TOP = 26, 16, 10, 4000.0  # mel bands, frames, classes, and the highest frequency in Hz
TEMPO = 0.2  # deviation of the logarithm of `in_tempo`'s bend, for virtual speakers
WINDOW, HOP = 0.025, 0.010  # seconds of a window of the Fourier transform, and from one to the next
ADVICE = "`tinymaml data fsdd --to DIR` says where the recordings can be had"
_NAME = re.compile(r"(\d)_([^/]+)_(\d+)\.wav", re.IGNORECASE)
_CACHE_VERSION = 2  # to be raised when the spectrograms or the fields of the cache change

defaults: dict[str, Any] = dict(
    network="mlp", hidden=(256,), inner_steps=5, inner_lr=0.1, meta_lr=0.002, decay=300, tasks=8, iterations=500,
    save_every=250, validate_every=100,
)  # fmt: skip

# Epochs of MAML++ are short, so that after half of the training the loss of the last step counts alone.
defaults_for: dict[str, dict[str, Any]] = {
    "mamlpp": dict(epoch=50, multi_step_epochs=5),
    "anil": dict(inner_lr=0.02),
    "reptile": dict(inner_steps=10),
}


@dataclass(frozen=True)
class Settings:
    """Options of speech."""

    data: str = option("", "folder or archive of the recordings", path=True)
    speaker: str = option("theo", "the speaker of test")
    shots: int = option(1, "support recordings of each digit", least=1)
    queries: int = option(5, "query recordings of each digit", least=1)
    virtual: bool = option(True, "each training task has a virtual speaker", training=True)


def make(settings: Settings) -> SpeechTasks:
    """The family with these settings. Its recordings are read when the first task is drawn."""
    s = settings
    if not s.data:
        raise ValueError(f"speech needs its recordings: --data PATH; {ADVICE}")
    return SpeechTasks(s.data, s.speaker, s.shots, s.queries, s.virtual)


def read(path: Path, settings: Settings) -> np.ndarray:
    """A WAV file of a user's as float32 (26, 16, 1), normalised as in training: for this, the data must be there."""
    family = make(settings)
    return family.normalised(spectrogram(read_one(path, "a WAV file"), str(path)))[..., None].astype(np.float32)


def pictures(learned) -> Iterator[tuple[str, Any]]:
    """Spectrograms of the test speaker, low frequencies below, and what is predicted before and after adaptation."""
    from ..pictures import tiles

    def shown(x: np.ndarray) -> np.ndarray:
        return np.clip(x[:, ::-1] / 5 + 0.5, 0, 1)  # ± 2.5 deviations

    speaker = learned.config.family.settings.speaker
    yield "tasks", tiles.predictions(learned, lambda rng: [f"{speaker}: {d}" for d in range(DIGITS)], shown=shown)


class Content(NamedTuple):
    """All recordings. x: float32 (N, 26, 16), log-mel; digits, speakers: (N,), the latter as places in names; digest:
    of the files."""

    x: np.ndarray
    digits: np.ndarray
    speakers: np.ndarray
    names: tuple[str, ...]
    digest: str = ""


class SpeechTasks:
    """Tell the ten digits of one speaker apart after hearing `shots` recordings of each.

    Raises:
        ValueError: a count below 1; when data are read, no such speaker, too few recordings of a digit, or a file that
            is no recording.
        FileNotFoundError: there are no data when they are read.
    """

    input_shape = (BANDS, FRAMES, 1)
    outputs, metric = DIGITS, accuracy(DIGITS)
    loss = staticmethod(classification)

    def __init__(
        self, path: str, speaker: str = "theo", shots: int = 1, queries: int = 5, virtual: bool = True,
        dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        check_counts(shots=shots, queries=queries)
        self.path, self.speaker, self.shots, self.queries = path, speaker, shots, queries
        self.virtual, self.dtype = virtual, check_dtype(dtype)

    @cached_property
    def content(self) -> Content:
        return load(self.path)

    @cached_property
    def splits(self) -> dict[str, list[int]]:
        """The speakers of each split, as places in `content.names`."""
        names = self.content.names
        if self.speaker not in names:
            raise ValueError(f"speaker is {self.speaker}; the speakers of {self.path} are {', '.join(names)}")
        if len(names) < 3:
            raise ValueError(f"{self.path} has the speakers {', '.join(names)}; wanted at least 3")
        test = names.index(self.speaker)
        order = [(test + i) % len(names) for i in range(len(names))]
        return {"train": sorted(order[2:]), "val": order[1:2], "test": order[:1]}

    @cached_property
    def members(self) -> list[np.ndarray]:
        """Of class 10 s + d the numbers of the recordings, by speaker s of the digit d."""
        content = self.content
        classes = DIGITS * content.speakers + content.digits
        found = [np.flatnonzero(classes == c) for c in range(DIGITS * len(content.names))]
        for c, numbers in enumerate(found):
            if len(numbers) < self.shots + self.queries:
                speaker, digit = content.names[c // DIGITS], c % DIGITS
                few = f"the {len(numbers)} recordings of the digit {digit} by {speaker}"
                raise ValueError(f"shots={self.shots} + queries={self.queries} is more than {few}")
        return found

    @cached_property
    def constants(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean and the deviation of each band, (26, 1), over all recordings of training speakers."""
        x = self.content.x[np.isin(self.content.speakers, self.splits["train"])]
        x = x - x.mean((1, 2), keepdims=True)
        return x.mean((0, 2))[:, None], x.std((0, 2))[:, None]

    def normalised(self, x: np.ndarray) -> np.ndarray:
        """Spectrograms (…, 26, 16) as a network gets them."""
        mean, deviation = self.constants
        return (x - x.mean((-2, -1), keepdims=True) - mean) / deviation

    def sample(self, rng: np.random.Generator, tasks: int, split: str) -> tuple:
        """((xs, ys), (xq, yq)): xs (tasks, 10 * shots, 26, 16, 1), ys int64 (tasks, 10 * shots), the digits; xq and yq
        with 10 * queries."""
        check_draw(tasks, split, SPLITS)
        speakers, members = rng.choice(self.splits[split], tasks), self.members
        classes = DIGITS * speakers[:, None] + np.arange(DIGITS)
        sizes = np.array([len(numbers) for numbers in members])
        voice = Voice.drawn(rng, tasks) if self.virtual and split == "train" else None
        episodes = draw(rng, classes, sizes, self.shots, self.queries)
        parts = []
        for part in (episodes.support, episodes.query):
            x = self._recordings(part)
            x = voice(in_tempo(x, np.exp(rng.normal(0, TEMPO, x.shape[:2])))) if voice else x
            parts.append((self.normalised(x)[..., None].astype(self.dtype), part.labels))
        return tuple(parts)

    def _recordings(self, examples: Examples) -> np.ndarray:
        """The spectrograms of chosen examples, (tasks, examples, 26, 16)."""
        first = np.cumsum([0, *map(len, self.members)])
        return self.content.x[np.concatenate(self.members)[first[examples.classes] + examples.numbers]]

    def fingerprint(self) -> str:
        return self.content.digest

    def baselines(self) -> dict[str, Callable]:
        """The nearest centroid of each digit: of the speaker's support recordings, of all recordings of training
        speakers, and of both together, where these count as much as 4 recordings of the speaker's."""
        training = np.isin(self.content.speakers, self.splits["train"])
        x, digits = self.normalised(self.content.x[training])[..., None], self.content.digits[training]
        of_others = np.stack([x[digits == d].mean(0) for d in range(DIGITS)])

        def both(xs, ys, xq):
            every = np.concatenate([xs, *[of_others] * 4]), np.concatenate([ys, *[np.arange(DIGITS)] * 4])
            return centroids(*every, xq, DIGITS)

        return {
            "centroids of the speaker": partial(centroids, ways=DIGITS),
            "centroids of the other speakers": lambda xs, ys, xq: centroids(of_others, np.arange(DIGITS), xq, DIGITS),
            "centroids of both": both,
        }


class Voice(NamedTuple):
    """How the voices of some tasks are changed: bands are stretched, and gains added; (tasks, …)."""

    stretch: np.ndarray  # of the mel bands: a shorter or a longer vocal tract
    gains: np.ndarray  # (tasks, 26), smooth over bands: another microphone

    @classmethod
    def drawn(cls, rng: np.random.Generator, tasks: int) -> Voice:
        at, waves = np.linspace(0, np.pi, BANDS), rng.normal(0, 1, (tasks, 4, 1))
        gains = np.sum(waves * np.cos(np.arange(1, 5)[:, None] * at), 1)
        return cls(rng.uniform(0.8, 1.2, (tasks, 1)), gains)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """x (tasks, N, 26, 16): band b becomes what was at b / stretch."""
        at = np.clip(np.arange(BANDS) / self.stretch, 0, BANDS - 1)  # (tasks, 26)
        return interpolated(x, at[:, None], 2) + self.gains[:, None, :, None]


def in_tempo(x: np.ndarray, bend: np.ndarray) -> np.ndarray:
    """x (tasks, N, 26, 16), in which the share u of the time becomes what was at u^bend, for bend (tasks, N).

    With a bend above 1, the beginning is slow and the end is fast.
    """
    return interpolated(x, (FRAMES - 1) * np.linspace(0, 1, FRAMES) ** bend[..., None], 3)


def interpolated(x: np.ndarray, at: np.ndarray, axis: int) -> np.ndarray:
    """x (tasks, N, 26, 16) at the places `at` (tasks, N or 1, places) of an axis, 2 or 3: linear interpolation."""
    at = np.expand_dims(at, 5 - axis)
    below = np.minimum(at.astype(int), x.shape[axis] - 2)
    part = at - below
    low, high = (np.take_along_axis(x, below + i, axis) for i in (0, 1))
    return (1 - part) * low + part * high


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def load(path: str) -> Content:
    """Read recordings DIGIT_SPEAKER_INDEX.wav from a folder or an archive, or what is kept of them.

    Raises:
        FileNotFoundError: there is nothing, or no such file.
        ValueError: a WAV file has another name, or is broken.
    """
    with open_data(path, ADVICE) as source:
        content = kept("speech", _CACHE_VERSION, source.files, lambda: _read(source))
    digest_of_files = str(content.pop("digest_of_files"))
    names = tuple(content.pop("names").tolist())
    return Content(**content, names=names, digest=digest_of_files)


def _read(source) -> dict[str, np.ndarray]:
    tqdm = require("tqdm", "train").tqdm
    files = [name for name in source.names if name.lower().endswith(".wav") and "__MACOSX" not in name]
    if not files:
        found = f"found {', '.join(source.names[:3])}; wanted DIGIT_SPEAKER_INDEX.wav"
        raise FileNotFoundError(f"no recordings at {source.path}: {found}; {ADVICE}")
    x, digits, speakers, digests = [], [], [], []
    seen: dict[Any, str] = {}
    for name in tqdm(files, desc="reading recordings", disable=None):
        match = _NAME.fullmatch(PurePosixPath(name).name)
        if not match:
            raise ValueError(f"{source.where(name)}: wanted a name DIGIT_SPEAKER_INDEX.wav")
        if (first := seen.setdefault(match.groups(), name)) != name:  # it could be in support and query
            raise ValueError(f"{source.where(name)}: the same recording as {first}")
        data = source.read(name)
        x.append(spectrogram(data, source.where(name)))
        digests.append((match.groups(), hashlib.sha256(data).hexdigest()))
        digits.append(int(match[1]))
        speakers.append(match[2])
    names, places = np.unique(speakers, return_inverse=True)
    return {
        "x": np.array(x, np.float32), "digits": np.array(digits), "speakers": places, "names": names,
        "digest_of_files": np.array(digest(digests)),
    }  # fmt: skip


def spectrogram(data: bytes, called: str) -> np.ndarray:
    """The log-mel spectrogram of a WAV file, (26, 16): the natural logarithm of the power in each band.

    Silence at both ends, 40 dB below the loudest frame, is cut off.

    Raises:
        ValueError: it is no WAV file, is cut off, is empty, or has less than 8,000 samples per second; the message
            begins with `called`.
    """
    rate, sound = _samples(data, called)
    size, hop = round(WINDOW * rate), round(HOP * rate)
    sound = np.pad(sound, (0, max(0, size + (FRAMES - 1) - len(sound))))
    frames = np.lib.stride_tricks.sliding_window_view(sound, size)[::hop]
    # |F(window · frame)|², summed in each band
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2 @ mel_filters(rate, size).T
    total = power.sum(1)
    loud = np.flatnonzero(total > 1e-4 * total.max())
    power = power[loud[0] : loud[-1] + 1] if len(loud) else power
    # 16 frames at even distances, between two in proportion
    at = np.linspace(0, len(power) - 1, FRAMES)
    logs = np.log(power + 1e-6)
    return np.stack([np.interp(at, np.arange(len(power)), band) for band in logs.T])


def mel_filters(rate: int, size: int) -> np.ndarray:
    """Triangles over the frequencies of `rfft`, (26, size // 2 + 1), whose corners are even in mel from 0 to 4 kHz.

    mel(f) = 2595 log₁₀(1 + f / 700)   (O'Shaughnessy, 1987)
    """
    top = 2595 * np.log10(1 + TOP / 700)
    corners = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    low, middle, high = (corners[i : i + BANDS, None] for i in range(3))
    f = np.fft.rfftfreq(size, 1 / rate)
    return np.maximum(0, np.minimum((f - low) / (middle - low), (high - f) / (high - middle)))


def _samples(data: bytes, called: str) -> tuple[int, np.ndarray]:
    """The rate, and the mean of the channels in −1 … 1."""
    wavfile = require("scipy.io.wavfile", "speech")
    try:
        with warnings.catch_warnings():  # of chunks that SciPy does not know; but a file that is cut off is broken
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
            warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
            rate, sound = wavfile.read(io.BytesIO(data))
    except Exception as cause:  # a broken WAV shows as ValueError, struct.error, EOFError, …
        raise ValueError(f"{called} is not a readable WAV file: {cause}") from cause
    if not sound.size or rate < 2 * TOP:
        seen = "no samples" if not sound.size else f"{rate} samples per second"
        raise ValueError(f"{called} has {seen}; wanted some, at {2 * TOP:.0f} per second or more")
    if sound.dtype.kind in "iu":
        half = 2.0 ** (8 * sound.dtype.itemsize - 1)
        sound = (sound - (half if sound.dtype.kind == "u" else 0)) / half
    sound = sound.astype(float).reshape(len(sound), -1).mean(1)
    if not np.isfinite(sound).all():
        raise ValueError(f"{called} has samples that are not finite")
    return rate, sound
