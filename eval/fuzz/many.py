"""Many inputs: forked workers, watched from outside, with limits on memory and time."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from eval.fuzz import inputs
from eval.fuzz.one import RESULT, scan_and_render, try_input
from projclean import errors

SECONDS_LIMIT = 20.0  # of processor time, an input
WAITING_LIMIT = 300.0  # seconds on the clock, an input: for one that waits without working
MEMORY_LIMIT = 1 << 30  # bytes of address space beyond what a worker starts with
DOCUMENTED = [name for name, kind in vars(errors).items() if isinstance(kind, type)]
CRASH, HANG = "crash", "hang"
OUTCOMES = [RESULT, *DOCUMENTED, CRASH, HANG]

#: feed(kind, seed, workplace): outcome, whether a model was written, whether it went through the command line
Feed = Callable[[str, str, Path], tuple[str, bool, bool]]


@dataclass
class Tally:
    """What a campaign counted: outcomes by kind of input, what went wrong, and the most that it took."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    written: int = 0
    by_command_line: int = 0
    peak_growth_mb: float = 0.0
    slowest_seconds: float = 0.0
    seconds: float = 0.0

    def total(self, outcomes: Iterable[str]) -> int:
        """Inputs with any of these outcomes."""
        return sum(count[name] for count in self.counts.values() for name in outcomes)


class _Board:
    """Memory that worker and watcher share: the input at hand, since when, and what was counted."""

    def __init__(self, kinds: Sequence[str]) -> None:
        shared = get_context("fork")
        self.kinds = list(kinds)
        self.at = shared.Value("q", -1, lock=False)
        self.since = shared.Value("d", 0.0, lock=False)
        self.worked = shared.Value("d", 0.0, lock=False)
        self.slowest = shared.Value("d", 0.0, lock=False)
        self.growth = shared.Value("d", 0.0, lock=False)
        self.written = shared.Value("q", 0, lock=False)
        self.by_command_line = shared.Value("q", 0, lock=False)
        self.counts = shared.Array("q", len(self.kinds) * len(OUTCOMES), lock=False)

    def count(self, number: int, outcome: str) -> None:
        self.counts[(number % len(self.kinds)) * len(OUTCOMES) + OUTCOMES.index(outcome)] += 1

    def done(self) -> int:
        return sum(self.counts)

    def kind(self, number: int) -> str:
        return self.kinds[number % len(self.kinds)]


def campaign(
    total: int,
    seed: int,
    workers: int,
    kinds: Sequence[str],
    tick: Callable[[int], None] | None = None,
    feed: Feed = try_input,
) -> Tally:
    """Feed `total` inputs, in turn of every kind, to `feed` (try_input) in forked workers. tick(done) is called."""
    start = time.monotonic()
    tally = Tally()
    _warm_up()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as temporary:
        posts = [_Post(kinds, range(w, total, workers), seed, Path(temporary) / str(w), feed) for w in range(workers)]
        while any([post.watch() for post in posts]):  # all of them, not the first that is busy  # noqa: C419
            time.sleep(0.05)
            if tick:
                tick(sum(post.board.done() for post in posts))
        for post in posts:
            post.add_to(tally)
    tally.seconds = time.monotonic() - start
    return tally


def _warm_up() -> None:
    """Import what the inputs need before forking."""
    for name in ("yaml", "projclean.evalset", "projclean.writer", "projclean.commands.scan"):
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    with contextlib.suppress(errors.ProjcleanError), tempfile.TemporaryDirectory() as folder:
        inputs.write(Path(folder), inputs.good_files(1))
        scan_and_render(Path(folder), folder, "json")


class _Post:
    """One worker and the one who watches it."""

    def __init__(self, kinds: Sequence[str], numbers: range, seed: int, folder: Path, feed: Feed) -> None:
        self.board, self.numbers, self.seed, self.folder, self.feed = _Board(kinds), numbers, seed, folder, feed
        self.failures: list[str] = []
        folder.mkdir()
        self._start(numbers)

    def watch(self) -> bool:
        """Notice a death or a hang and go on behind it; False when all inputs are through."""
        late = self._is_late()
        if self.process.is_alive() and not late:
            return True
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        if self.process.exitcode == 0:
            return False
        at = self.board.at.value
        self.board.count(at, HANG if late else CRASH)
        why = "took too long" if late else f"ended its process ({self.process.exitcode})"
        self.failures.append(f"{self.board.kind(at)} {self.seed}:{at}: {why}")
        rest = self.numbers[self.numbers.index(at) + 1 :]
        self._start(rest)
        return True

    def _is_late(self) -> bool:
        """Whether the input at hand has had its processor time, or sits there waiting."""
        if self.board.at.value < 0:
            return False
        waited = time.monotonic() - self.board.since.value
        if waited <= SECONDS_LIMIT:
            return False
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # no such file system: only the clock is left
            return waited > WAITING_LIMIT
        worked = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return worked - self.board.worked.value > SECONDS_LIMIT or waited > WAITING_LIMIT

    def add_to(self, tally: Tally) -> None:
        for place, kind in enumerate(self.board.kinds):
            part = self.board.counts[place * len(OUTCOMES) : (place + 1) * len(OUTCOMES)]
            counter = tally.counts.setdefault(kind, Counter())
            counter.update({name: count for name, count in zip(OUTCOMES, part, strict=True) if count})
        tally.failures += self.failures
        log = self.folder / "failures"
        if log.exists():
            tally.failures += json.loads("[" + log.read_text(encoding="utf-8").rstrip(",\n") + "]")
        tally.written += self.board.written.value
        tally.by_command_line += self.board.by_command_line.value
        tally.peak_growth_mb = max(tally.peak_growth_mb, self.board.growth.value)
        tally.slowest_seconds = max(tally.slowest_seconds, self.board.slowest.value)

    def _start(self, numbers: range) -> None:
        self.board.at.value = -1
        self.process = get_context("fork").Process(target=self._work, args=(numbers,))
        self.process.start()

    def _work(self, numbers: range) -> None:
        """In the worker: feed one input after the other."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
        if pages is not None:
            limit = pages * resource.getpagesize() + MEMORY_LIMIT
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        board, start = self.board, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in numbers:
            began = time.process_time()
            board.worked.value, board.since.value = began, time.monotonic()
            board.at.value = number
            try:
                outcome, written, by_command_line = self.feed(
                    board.kind(number), f"{self.seed}:{number}", self.folder / "at"
                )
                board.written.value += written
                board.by_command_line.value += by_command_line
            except Exception:
                outcome = CRASH
                text = f"{board.kind(number)} {self.seed}:{number}: {traceback.format_exc()[-3000:]}"
                with (self.folder / "failures").open("a", encoding="utf-8") as handle:
                    handle.write(json.dumps(text) + ",\n")
            board.count(number, outcome)
            board.slowest.value = max(board.slowest.value, time.process_time() - began)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
            board.growth.value = max(board.growth.value, grown / 1024)
