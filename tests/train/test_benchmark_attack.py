"""The attack command counts what goes wrong, and says how to repeat it."""

import json
import multiprocessing
import os
from random import Random

import pytest

from geoclip_core.data.photos import open_photo
from geoclip_core.errors import PhotoError
from train.__main__ import main
from train.benchmarks import attack, hostile
from train.benchmarks.attack import Result, _Attempt, _outcome, _watch, table

NOTHING = ("--photos", "0", "--checkpoints", "0", "--files", "0", "--kills", "0", "--sessions", "0")


class Child:
    """A child process that has ended with a signal."""

    exitcode = -11
    pid = os.getpid()
    killed = False

    def join(self):
        pass

    def kill(self):
        self.killed = True


def watched(*messages, silent=False):
    receiver, sender = multiprocessing.Pipe(duplex=False)
    for message in messages:
        sender.send(message)
    if not silent:
        sender.close()
    result, child = Result("photos", refused=0), Child()
    following = _watch(child, receiver, result, 0, 2, seed=7)
    return result, following, child


def test_used_and_refused_files_are_counted_with_memory_and_time():
    result, following, _ = watched(
        *(("begin", 0, "a"), ("end", "used", 0.5, 0.1, 100)),
        *(("begin", 1, "b"), ("end", "refused", 0.1, 0.1, 300)),
    )
    assert following == 2
    assert (result.refused, result.wrong, result.hangs) == (1, 0, 0)
    assert (result.peak_bytes, result.slowest) == (300, 0.5)


def test_a_foreign_exception_names_seed_and_number():
    result, _, _ = watched(
        *(("begin", 0, "a"), ("end", "used", 0.1, 0.1, 1)),
        *(("begin", 1, "a cut jpeg"), ("end", "KeyError: 3", 0.1, 0.1, 1)),
    )
    assert result.wrong == 1
    assert result.found == ["--seed 7 --first 1 (a cut jpeg): KeyError: 3"]


def test_a_native_crash_is_counted_and_the_next_file_follows():
    result, following, _ = watched(("begin", 0, "a cut webp"))
    assert (result.wrong, following) == (1, 1)
    assert "--seed 7 --first 0 (a cut webp) ends the process: exit status -11" in result.found[0]


def test_a_hang_is_killed_and_counted(monkeypatch):
    monkeypatch.setattr(attack, "KILL_SECONDS", 0.05)
    result, following, child = watched(("begin", 0, "a pipe"), silent=True)
    assert (result.hangs, following, child.killed) == (1, 1, True)
    slow, _, _ = watched(("begin", 0, "a"), ("end", "used", 30.0, 11.0, 1), ("begin", 1, "b"))
    assert slow.hangs == 1


def test_an_error_of_the_attack_itself_is_raised():
    with pytest.raises(RuntimeError, match="the attack itself fails"):
        watched(("broken", "TypeError"))


def test_only_the_promised_error_with_a_message_is_a_refusal():
    def raising(error):
        def use():
            raise error

        return _Attempt("x", use, (PhotoError,))

    assert _outcome(_Attempt("x", lambda: None, ())) == "used"
    assert _outcome(raising(PhotoError("it is damaged"))) == "refused"
    assert "0 characters" in _outcome(raising(PhotoError("")))
    assert "MemoryError" in _outcome(raising(MemoryError()))


def test_every_sample_is_a_photo_before_it_is_damaged():
    for name, content in hostile.photo_samples().items():
        assert open_photo(content, name=name).image.mode == "RGB", name


def test_the_same_seed_makes_the_same_damage():
    made = [hostile.hostile_photo(Random(f"{seed}")) for seed in (3, 3, 4)]
    assert made[0] == made[1] != made[2]


@pytest.mark.slow
def test_a_few_damaged_photos_from_the_command_line(tmp_path, capsys):
    output = tmp_path / "report.json"
    assert main(["benchmark", "attack", *NOTHING, "--photos", "40", "--output", str(output)]) == 0
    assert "| photos | 40 |" in capsys.readouterr().out
    (row,) = json.loads(output.read_text())["results"]
    assert row["tried"] == 40
    assert row["wrong"] == row["hangs"] == 0
    assert 0 < row["refused"] < 40


def test_the_table_names_every_number():
    row = Result("photos", 20_000, 1, 2, 3_000_000, 4.0, 5.0, refused=6)
    assert "| photos | 20,000 | 6 | 1 | 2 | 3 MB | 4 | 5.0 s |" in table([row])
