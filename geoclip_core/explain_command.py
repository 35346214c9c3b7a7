"""``python -m geoclip_core explain PHOTO``: the parts of a photo that an answer rests on."""

import argparse
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from geoclip_core.errors import PhotoError
from geoclip_core.explain import PLACE, Effect
from geoclip_core.files import atomic_file
from geoclip_core.locator import Geolocator


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of ``python -m geoclip_core``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "explain",
        help="show the parts of a photo that an answer rests on",
        description="Cover parts of a photo, one after another, and see what the answers lose. "
        "Prints each answer with its support (expected GeoScore of the place, probability of a "
        "class) before and after the fifth of the photo that matters most is covered.",
    )
    parser.add_argument("photo", metavar="PHOTO", help="photo file")
    parser.add_argument(
        "--model",
        default="mini",
        help="bundled name, run or checkpoint folder, or hub id (default: %(default)s)",
    )
    parser.add_argument(
        "--answer",
        default=PLACE,
        help='the answer to draw: "place", or a context feature (default: %(default)s)',
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PNG",
        help="write the photo with what speaks for the answer in orange, against it in blue",
    )
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Explain one photo; 0 if it could be read, else 1."""
    if arguments.output is not None and arguments.output.suffix.lower() != ".png":
        raise ValueError(f"--output: {arguments.output} must end in .png")
    locator = Geolocator.load(arguments.model, arguments.device)
    answers = (PLACE, *(locator.features if locator.context_source == "photo" else ()))
    if arguments.answer not in answers:
        raise ValueError(
            f"--answer: {locator.name} gives no {arguments.answer!r}; choose {' or '.join(answers)}"
        )
    bar = tqdm(desc="looking", unit=" times", file=sys.stderr, disable=None)

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    try:
        explanation = locator.explain(arguments.photo, progress=progress)
    except PhotoError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        bar.close()
    for answer, effect in explanation.effects.items():
        print(f"{answer}: {describe(answer, effect)}")
    if arguments.output is not None:
        with atomic_file(arguments.output) as unfinished:
            explanation.overlay(arguments.answer).save(unfinished, "PNG")
    return 0


def describe(answer: str, effect: Effect) -> str:
    """An answer and how much of its support the marked part holds, in one sentence."""
    numbers = effect.support, effect.left, effect.left_elsewhere
    whole, left, other = (f"{v:,.0f}" if answer == PLACE else f"{v:.1%}" for v in numbers)
    kind = "expected GeoScore" if answer == PLACE else "probability"
    verdict = "" if effect.stands_out else "; no part stands out"
    return (
        f"{effect.answer}: {kind} {whole}; with the fifth that matters most covered {left}, "
        f"with the same shape elsewhere {other}{verdict}"
    )
