"""Attack the program with damaged files, kills and many sessions, and count what goes wrong."""

import contextlib
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Annotated

import psutil
from annotated_types import Ge

from geoclip_core.files import CACHE_VARIABLE, OFFLINE_VARIABLE, write_json
from geoclip_core.processes import without_main
from geoclip_core.training.options import options_class

HANG_SECONDS = 10.0
"""A file that takes more time of the processor counts as a hang, however busy the computer is."""
KILL_SECONDS = 60.0
"""A process that waits for so long, without computing, is killed; this is a hang as well."""
PHOTO_BATCH, FILE_BATCH = 2000, 500
"""Files after which a new process is started."""
_SHOWN = 20


@options_class
class AttackOptions:
    """Options of `benchmark attack`."""

    photos: Annotated[int, Ge(0)] = 1000
    """damaged photos"""
    checkpoints: Annotated[int, Ge(0)] = 100
    """damaged checkpoints, loaded and used"""
    files: Annotated[int, Ge(0)] = 100
    """damaged run folders, and as many damaged tables of predictions"""
    kills: Annotated[int, Ge(0)] = 2
    """SIGKILLs of small trainings, which are then resumed"""
    sessions: Annotated[int, Ge(0)] = 3
    """browser sessions of the app at the same time"""
    photos_a_session: Annotated[int, Ge(1)] = 5
    """photos that each session uploads"""
    seed: Annotated[int, Ge(0)] = 0
    """seed of the damage and of the moments of kills"""
    first: Annotated[int, Ge(0)] = 0
    """number of the first file of each kind, to repeat one"""
    output: Path | None = None
    """JSON file for the table and what was found"""


@dataclass
class Result:
    """What an attack of one kind did."""

    kind: str
    tried: int = 0
    wrong: int = 0
    """Errors of other kinds than the promised ones, crashes, unequal weights, unanswered pages."""
    hangs: int = 0
    """Files that took more than `HANG_SECONDS` or `KILL_SECONDS`."""
    peak_bytes: int = 0
    """Largest resident memory of the attacked process."""
    seconds: float = 0.0
    slowest: float = 0.0
    """Seconds of the slowest file, resumption or page."""
    found: list[str] = field(default_factory=list)
    """What went wrong, and how to repeat it."""
    refused: int | None = None
    """Files that were refused with the promised error."""
    note: str = ""


def attack(options: AttackOptions) -> int:
    """Attack readers, trainings and the app with damaged files, kills and many sessions.

    Every file is read in a child process, whose time and memory are measured, so that a crash of a
    decoder is counted. The exit status is 1 if anything goes wrong.
    """
    results: list[Result] = []
    print(table(results), flush=True)
    for result in run_attacks(options):
        results.append(result)
        print(_row(result), flush=True)
        for line in result.found[:_SHOWN]:
            print(f"{result.kind}: {line}\n", file=sys.stderr)
        if len(result.found) > _SHOWN:
            print(f"{result.kind}: and {len(result.found) - _SHOWN} more", file=sys.stderr)
    for result in results:
        if result.note:
            print(f"{result.kind}: {result.note}")
    if options.output is not None:
        report = {"seed": options.seed, "results": [asdict(result) for result in results]}
        write_json(options.output, report)
    return int(any(result.wrong or result.hangs for result in results))


def table(results: list[Result]) -> str:
    """Return the reliability table in Markdown, which reads as plain text as well."""
    lines = [
        "| kind | tried | refused | foreign exceptions or wrong | hangs over 10 s | peak memory "
        "| seconds | slowest |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    return "\n".join([*lines, *map(_row, results)])


def _row(result: Result) -> str:
    refused = "–" if result.refused is None else f"{result.refused:,}"
    return (
        f"| {result.kind} | {result.tried:,} | {refused} | {result.wrong:,} | {result.hangs:,} | "
        f"{result.peak_bytes / 1e6:,.0f} MB | {result.seconds:,.0f} | {result.slowest:.1f} s |"
    )


def run_attacks(options: AttackOptions) -> Iterator[Result]:
    """Yield the result of each kind of attack that is asked for."""
    with tempfile.TemporaryDirectory(prefix="attack-") as text, _surroundings(Path(text)):
        scratch = Path(text)
        if options.photos:
            yield _attack_files("photos", options.photos, options, scratch, PHOTO_BATCH)
        if options.checkpoints or options.files or options.kills:
            training = Training.prepare(scratch)
            for kind, count in (
                ("checkpoints", options.checkpoints),
                ("run folders", options.files),
                ("predictions", options.files),
            ):
                if count:
                    yield _attack_files(kind, count, options, scratch, FILE_BATCH)
            if options.kills:
                yield training.killed(options.kills, Random(f"{options.seed} kills"))
        if options.sessions:
            yield _attack_sessions(options, scratch)


@contextlib.contextmanager
def _surroundings(scratch: Path) -> Iterator[None]:
    """Use caches of our own, no network, and one thread in each process, as tests do."""
    ours = {
        CACHE_VARIABLE: str(scratch / "cache"),
        OFFLINE_VARIABLE: "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# Files --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Attempt:
    """One damaged file: how it was made, and what uses it."""

    what: str
    use: Callable[[], None]
    """Raises `allowed` errors, or none."""
    allowed: tuple[type[Exception], ...]


def _photo(random: Random, scratch: Path) -> _Attempt:
    from geoclip_core.data.photos import open_photo
    from geoclip_core.errors import PhotoError
    from train.benchmarks.hostile import hostile_photo

    what, content = hostile_photo(random)
    draft = random.choice([None, 64, 300])

    def use() -> None:
        photo = open_photo(content, name="photo", draft_size=draft)
        if photo.image.mode != "RGB":
            raise AssertionError(f"a photo has the mode {photo.image.mode}")

    return _Attempt(f"{what}, {len(content):,} bytes, draft {draft}", use, (PhotoError,))


def _checkpoint(random: Random, scratch: Path) -> _Attempt:
    from PIL import Image

    from geoclip_core import Geolocator
    from geoclip_core.errors import CheckpointError
    from train.benchmarks.hostile import damage_checkpoint

    source = random.choice(_sources(scratch))
    folder = scratch / f"checkpoint-{os.getpid()}"
    _remove(folder)
    shutil.copytree(source, folder)
    what = damage_checkpoint(folder, random)

    def use() -> None:
        locator = Geolocator.load(folder)
        photo = Image.new("RGB", (60, 40), "green")
        locator.locate(photo)
        list(locator.locate_many([photo, photo]))

    return _Attempt(f"{source.name}, {what}", use, (CheckpointError,))


def _sources(scratch: Path) -> list[Path]:
    """Return whole checkpoints: cells with the weights of their backbone, and two banks."""
    from geoclip_core.model.checkpoint import BUNDLED

    trained = scratch / TRAINING / "whole" / "checkpoint"
    return [trained, trained, BUNDLED / "mini", BUNDLED / "mini-plain"]


def _run_folder(random: Random, scratch: Path) -> _Attempt:
    from geoclip_core.errors import FileError
    from geoclip_core.jobs import JobError
    from geoclip_core.results import read_results
    from geoclip_core.training.runs import Run, find_runs
    from train.benchmarks.hostile import damage_run

    root = scratch / f"runs-{os.getpid()}"
    _remove(root)
    names = ("status.json", "config.yaml", "metrics.jsonl", "metrics.json", "log.txt")
    for name in ("damaged", "whole"):
        (root / name).mkdir(parents=True)
        for file in names:
            shutil.copyfile(scratch / TRAINING / "whole" / file, root / name / file)
    what = damage_run(root / "damaged", random)
    run = Run(root / "damaged")

    def use() -> None:
        runs, problems = find_runs(root)  # raises nothing
        # a folder without status.json is no run
        listed = 1 + os.path.lexists(run.folder / "status.json")
        if len(runs) + len(problems) != listed or not any(run.name == "whole" for run in runs):
            raise AssertionError(f"{len(runs)} runs and {len(problems)} problems are listed")
        run.metrics_table(500)
        run.log_tail()
        refusals = []
        for read in (
            lambda: run.status,
            lambda: run.config,
            lambda: read_results(run.folder / "metrics.json"),
            lambda: run.forget_metrics_after(3),
        ):
            try:
                read()
            except (JobError, FileError) as error:
                refusals.append(error)
        if refusals:
            raise refusals[0]

    return _Attempt(what, use, (JobError, FileError))


def _predictions(random: Random, scratch: Path) -> _Attempt:
    import pyarrow as pa

    from geoclip_core.data.vocabulary import class_name
    from geoclip_core.evaluation.evaluate import describe
    from geoclip_core.evaluation.metrics import summarise
    from geoclip_core.evaluation.predictions import (
        PredictionsError,
        head_features,
        read_candidates,
        read_predictions,
        write_predictions,
    )
    from train.benchmarks import hostile

    source = scratch / TRAINING / "whole" / "predictions.parquet"
    path = scratch / f"predictions-{os.getpid()}.parquet"
    _remove(path)
    kind = random.choice(["values", "values", "bytes", "bytes", "special"])
    shutil.copyfile(source, path)
    if kind == "bytes":
        path.write_bytes(hostile.damaged_bytes(path.read_bytes(), random))
    elif kind == "special":
        hostile.replace_file(path, random.choice(hostile.REPLACEMENTS))
    else:
        frame = hostile.edited_frame(read_predictions(source), random)
        try:
            write_predictions(frame, path, {"model": random.choice([hostile.BEACON, "m"])})
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            kind = "values that arrow cannot hold in one column"

    def use() -> None:
        json.dumps(describe(path)).encode()
        frame = read_predictions(path, candidates=False)
        read_candidates(path, str(frame["id"].iloc[0]) if len(frame) else "x")
        if len(frame):
            summarise(frame, resamples=0)
        for feature in head_features(frame):
            for key in frame[f"{feature}_top1"].dropna().unique():
                class_name(feature, key)

    return _Attempt(kind, use, (PredictionsError,))


ATTEMPTS = {
    "photos": _photo,
    "checkpoints": _checkpoint,
    "run folders": _run_folder,
    "predictions": _predictions,
}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _attack_files(
    kind: str, count: int, options: AttackOptions, scratch: Path, batch: int
) -> Result:
    """Read damaged files in child processes, and start a new one after a crash or a hang."""
    result = Result(kind, refused=0)
    started = time.monotonic()
    spawn = multiprocessing.get_context("spawn")
    number, end = options.first, options.first + count
    while number < end:
        receiver, sender = spawn.Pipe(duplex=False)
        last = min(number + batch, end)
        arguments = (kind, options.seed, number, last, scratch, sender)
        process = spawn.Process(target=_work, args=arguments, daemon=True)
        with without_main():
            process.start()
        sender.close()
        number = _watch(process, receiver, result, number, last, options.seed)
    result.tried = count
    result.seconds = time.monotonic() - started
    return result


def _watch(
    process: multiprocessing.process.BaseProcess,
    receiver: Connection,
    result: Result,
    number: int,
    last: int,
    seed: int,
) -> int:
    """Read what a child reports until it ends; return the number of the next file."""
    what, begun = "starting", False
    at_start = busy_before = 0.0
    again = f"--seed {seed} --first"
    while True:
        try:
            if not receiver.poll(KILL_SECONDS):
                now = _busy_seconds(process)
                if (now - at_start < HANG_SECONDS and now - busy_before > 0.1) or not begun:
                    busy_before = now  # the computer is busy with other things
                    continue
                result.hangs += 1
                result.slowest = max(result.slowest, KILL_SECONDS)
                result.found.append(f"{again} {number} ({what}) hangs")
                process.kill()
                process.join()
                return number + 1
            message = receiver.recv()
        except EOFError:
            process.join()
            if number < last:
                result.wrong += 1
                status = f"exit status {process.exitcode}"
                result.found.append(f"{again} {number} ({what}) ends the process: {status}")
                return number + 1
            return last
        if message[0] == "begin":
            (_, number, what), begun = message, True
            at_start = busy_before = _busy_seconds(process)
            continue
        if message[0] == "broken":
            raise RuntimeError(f"the attack itself fails at {number}:\n{message[1]}")
        _, outcome, seconds, busy, peak = message
        begun = False
        result.peak_bytes = max(result.peak_bytes, peak)
        result.slowest = max(result.slowest, seconds)
        if outcome == "refused":
            result.refused = (result.refused or 0) + 1
        elif outcome != "used":
            result.wrong += 1
            result.found.append(f"{again} {number} ({what}): {outcome}")
        if busy > HANG_SECONDS:
            result.hangs += 1
            result.found.append(f"{again} {number} ({what}) computes for {busy:.0f} s")
        number += 1


def _busy_seconds(process: multiprocessing.process.BaseProcess) -> float:
    """Return the time of the processor that a child has used."""
    try:
        times = psutil.Process(process.pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _work(kind: str, seed: int, first: int, last: int, scratch: Path, sender: Connection) -> None:
    """Use damaged files in a child process, and report each."""
    peak = PeakResident()
    try:
        _load_all(kind, scratch)
        for number in range(first, last):
            attempt = ATTEMPTS[kind](Random(f"{seed} {kind} {number}"), scratch)
            sender.send(("begin", number, attempt.what))
            peak.reset()
            started, busy = time.perf_counter(), time.process_time()
            outcome = _outcome(attempt)
            seconds, busy = time.perf_counter() - started, time.process_time() - busy
            sender.send(("end", outcome, seconds, busy, peak.read()))
    except Exception:  # in the code above, not in the code that is attacked
        sender.send(("broken", traceback.format_exc()))


def _load_all(kind: str, scratch: Path) -> None:
    """Use whole checkpoints, so that the time of imports is not that of the first damaged one."""
    from PIL import Image

    if kind == "checkpoints":
        from geoclip_core import Geolocator

        for folder in _sources(scratch):
            Geolocator.load(folder).locate(Image.new("RGB", (60, 40)))


def _outcome(attempt: _Attempt) -> str:
    """Return "used", "refused", or what went wrong."""
    try:
        attempt.use()
    except attempt.allowed as error:
        if len(str(error)) > 2000 or not str(error).strip():
            return f"a message of {len(str(error)):,} characters"
        return "refused"
    except BaseException:  # of any kind: this is what is looked for
        return traceback.format_exc(limit=-6)
    return "used"


class PeakResident:
    """The largest resident memory of this process since `reset`, in bytes."""

    _STATUS = Path("/proc/self/status")

    def reset(self) -> None:
        """Start again from the memory of now. Only Linux can."""
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> int:
        """Return the peak."""
        with contextlib.suppress(OSError):
            for line in self._STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return int(psutil.Process().memory_info().rss)


# Kills --------------------------------------------------------------------------------------------

TRAINING = "training"
_FIT: tuple[str, ...] = (
    *("--epochs", "5", "--geocells.cells", "12", "--dropout", "0.3", "--device", "cpu"),
    *("--train-backbone", "last-block", "--batch-size", "24", "--log-every", "1"),
    *("--save-seconds", "0"),
)


@dataclass(frozen=True)
class Training:
    """A small training that was not interrupted, with which killed ones are compared."""

    folder: Path
    seconds: float

    @classmethod
    def prepare(cls, scratch: Path) -> "Training":
        """Draw a dataset, write a small network with random weights, and train on both."""
        import torch
        import transformers

        from geoclip_core.demo.dataset import write_demo

        folder = scratch / TRAINING
        folder.mkdir()
        write_demo(folder / "demo", 150)
        torch.manual_seed(0)
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
        network = transformers.ResNetForImageClassification(config)
        network.save_pretrained(folder / "network")
        settings = {"size": {"height": 32, "width": 32}, "do_normalize": True}
        (folder / "network" / "preprocessor_config.json").write_text(json.dumps(settings))
        training = cls(folder, 0.0)
        training._run("imports", ("runs", folder))  # so that their time is not measured
        started = time.monotonic()
        training._run("whole", training._begin("whole"))
        return cls(folder, time.monotonic() - started)

    def _begin(self, name: str) -> tuple[object, ...]:
        places = {
            "--data": self.folder / "demo",
            "--backbone": self.folder / "network",
            "--cache-dir": self.folder / f"cache-{name}",
            "--output": self.folder / name,
        }
        return ("fit", *(word for pair in places.items() for word in pair), *_FIT)

    def _run(self, name: str, arguments: tuple[object, ...]) -> None:
        """Run a training to its end.

        Raises:
            RuntimeError: it fails; the message has its log.
        """
        from train.benchmarks.forked import Forked

        log = self.folder / f"{name}.txt"
        if Forked(*arguments, log=log).wait() != 0:
            raise RuntimeError(f"a training failed:\n{log.read_text()[-3000:]}")

    def killed(self, count: int, random: Random) -> Result:
        """Kill trainings with SIGKILL at random moments, up to three times each, and resume them.

        Each must then have the weights, metrics and logged losses of the one that was not killed.
        """
        result = Result("kills and resumptions", count)
        started = time.monotonic()
        left, number = count, 0
        moments = []
        while left:
            number += 1
            name = f"killed-{number}"
            again = self._begin(name)
            for _ in range(min(left, random.choice([1, 1, 2, 3]))):
                again, step, peak = self._kill(name, again, random.uniform(0, self.seconds))
                if peak:  # else it had finished
                    left -= 1
                    moments.append(step)
                result.peak_bytes = max(result.peak_bytes, peak)
            resumed = time.monotonic()
            try:
                self._run(name, again)
                difference = self._difference(name)
            except (RuntimeError, TimeoutError, OSError, ValueError) as error:
                difference = str(error)
            result.slowest = max(result.slowest, time.monotonic() - resumed)
            if difference:
                result.wrong += 1
                result.found.append(f"training {number}, killed after {moments}: {difference}")
            shutil.rmtree(self.folder / name, ignore_errors=True)
            shutil.rmtree(self.folder / f"cache-{name}", ignore_errors=True)
        result.seconds = time.monotonic() - started
        trained = [step for step in moments if step]
        middle = statistics.median(trained) if trained else "–"
        result.note = (
            f"{number} trainings; {count - len(trained)} kills before the first step; median of "
            f"the others at step {middle}"
        )
        return result

    def _kill(
        self, name: str, arguments: tuple[object, ...], after: float
    ) -> tuple[tuple[object, ...], int, int]:
        """Start a training and kill it after some seconds.

        Returns:
            The arguments with which it goes on, the step it had reached, and its memory in bytes: 0
            if it had ended before.
        """
        from geoclip_core.training.runs import Run
        from train.benchmarks.forked import Forked

        process = Forked(*arguments, log=self.folder / f"{name}.txt")
        process.join(after)
        peak = 0
        with contextlib.suppress(psutil.Error):
            if process.exitcode is None:
                peak = int(psutil.Process(process.pid).memory_info().rss)
        process.kill()
        process.join()
        run = Run(self.folder / name)
        if not run.status_path.exists():
            return self._begin(name), 0, peak
        return ("fit", "--resume", run.folder), run.recorded_status.step, peak

    def _difference(self, name: str) -> str:
        """Return how a resumed training differs from the uninterrupted one; "" if it does not."""
        one, other = self.folder / "whole", self.folder / name
        for file in ("model.safetensors", "vocabularies.json", "calibration.json"):
            first, second = one / "checkpoint" / file, other / "checkpoint" / file
            if first.exists() and first.read_bytes() != second.read_bytes():
                return f"checkpoint/{file} differs"
        rows = []
        for folder in (one, other):
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            kept = [json.loads(line) for line in lines]
            rows.append([{k: v for k, v in row.items() if k != "time"} for row in kept])
        return "" if rows[0] == rows[1] else "metrics.jsonl differs"


# Sessions -----------------------------------------------------------------------------------------


def _attack_sessions(options: AttackOptions, scratch: Path) -> Result:
    """Use the app in several sessions at once: the first page, photos, the other pages."""
    from train.benchmarks.sessions import AppError, PeakMemory, running_app

    result = Result("sessions at once", options.sessions)
    started = time.monotonic()
    runs, datasets = str(scratch / "no runs"), str(scratch / "none")
    try:
        with running_app(
            scratch / "app.txt", GEOCLIP_RUNS=runs, GEOCLIP_DATASETS=datasets
        ) as server:
            peak = PeakMemory(server)
            peak.start()
            lock = threading.Lock()
            threads = [
                threading.Thread(target=_session, args=(server.address, n, options, result, lock))
                for n in range(options.sessions)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            result.peak_bytes = peak.stop()
            time.sleep(2)
            result.note = (
                f"{options.photos_a_session} photos of 12 megapixels each; "
                f"{server.memory / 1e6:,.0f} MB two seconds after the last one was closed"
            )
            if "Traceback" in server.log:
                result.wrong += 1
                result.found.append(f"the log has a traceback:\n{server.log[-3000:]}")
    except AppError as error:
        result.wrong += 1
        result.found.append(str(error))
    result.seconds = time.monotonic() - started
    return result


def _session(
    address: str, number: int, options: AttackOptions, result: Result, lock: threading.Lock
) -> None:
    from train.benchmarks.hostile import jpeg, smooth
    from train.benchmarks.sessions import BrowserSession

    problems, slowest = [], 0.0
    try:
        session = BrowserSession(address)
        with contextlib.closing(session):
            page = session.run_page()
            photos = [
                (f"photo-{number}-{at}.jpg", jpeg(smooth((4000, 3000), 1000 * number + at)))
                for at in range(options.photos_a_session)
            ]
            uploaded = session.upload(page.uploader, photos)
            for name, widgets in (("", [uploaded]), *((name, []) for name in _OTHER_PAGES)):
                began = time.monotonic()
                page = session.run_page(name, widgets)
                slowest = max(slowest, time.monotonic() - began)
                problems += page.exceptions
                if not name and not page.shows(photos[0][0]):
                    problems.append("the page does not show the photo")
    except Exception as error:
        problems.append(f"{type(error).__name__}: {error}")
    with lock:
        result.slowest = max(result.slowest, slowest)
        result.wrong += bool(problems)
        result.found += [f"session {number}: {problem}" for problem in problems]


_OTHER_PAGES = ("Context_heads", "Evaluation", "Train", "Dataset")
