"""The commands of `geoclip`: locate and explain photos; list, download and push models.

The fields of a class are the flags of its command. What takes long to import is imported by the
command that runs, for `--help` must answer at once.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import tyro

from geoclip_core.errors import PhotoError
from geoclip_core.files import CACHE_VARIABLE, atomic_file, cache_folders, readable

if TYPE_CHECKING:  # for annotations alone: both import torch
    from geoclip_core.explain import Effect
    from geoclip_core.formats import Row
    from geoclip_core.locator import Geolocator

CacheFolder = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")]


@dataclass(frozen=True)
class Locate:
    """Estimate where photos were taken.

    Photos stay on this computer. A GPS position in a photo's EXIF is shown, never used. The exit
    status is 1 if a photo cannot be read; the others are located all the same.

    For millions of photos: --bulk INPUT --output FOLDER shares them among worker processes of Ray,
    on this computer or on the cluster that RAY_ADDRESS names. FOLDER gets Parquet files with the
    columns of --format csv, in no particular order; a photo that cannot be read is a row with the
    column error. Stopped or killed, the same command continues with the photos that are missing.
    """

    photos: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="PHOTO...", help_behavior_hint="(required)"),
    ]
    """Photo files, or folders of photos. Output names each as given; those of one folder, alone on
    the command line, by their path below it."""
    model: str = "mini"
    """Bundled name, run or checkpoint folder, or hub id."""
    top_k: int = 5
    """Candidate places for each photo."""
    format: Literal["text", "json", "csv", "geojson", "kml"] = "text"
    """Output format; json writes one object a line."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write to this file instead of the screen."""
    claim: Annotated[str | None, tyro.conf.arg(metavar="PLACE")] = None
    """Check whether the photo fits a claimed place: "Aleppo, Syria" or 36.2,37.16."""
    given: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FEATURE=VALUE")
    ] = ()
    """What you know: country=Chile, state=Texas, climate=Csb, or month=1 for models that
    read it; repeat the flag for more."""
    context_off: bool = False
    """Do not let what the context heads read move the estimate."""
    together: bool = False
    """All photos show one place: give one estimate from all of them."""
    similar: int = 0
    """Training photos to list that look most like each photo."""
    batch_size: int = 8
    """Photos that pass through the model at a time."""
    device: str = "auto"
    """Torch device; auto is the CPU and, with --bulk, a GPU for each worker where Ray finds one."""
    bulk: Annotated[Path | None, tyro.conf.arg(metavar="INPUT")] = None
    """Folder of photos, or CSV or Parquet file with a column of paths (relative to its folder) or
    addresses (file://, s3://, gs://, az:// ...); --output is then the folder of the results. Needs
    Ray: pip install "ray[data]"."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """With --bulk: worker processes, each with a model of its own (default: one for each GPU, or
    CPU)."""

    def run(self) -> int:
        """Write one row for each photo; return 1 if a photo could not be read, else 0."""
        if self.bulk is not None:
            return self._run_bulk(self.bulk)
        if self.workers is not None:
            raise ValueError("--workers is an option of --bulk")
        if not self.photos:
            print("geoclip locate: error: name a photo, or a folder of photos", file=sys.stderr)
            return 2
        from tqdm import tqdm

        from geoclip_core.hints import parse_given
        from geoclip_core.locator import Geolocator
        from geoclip_core.prediction import Failure

        self._check_counts()
        files = listed_photos(self.photos)
        claimed = None
        if self.claim is not None:
            from geoclip_core.earth.gazetteer import Gazetteer

            claimed = Gazetteer.load().find(self.claim)
        locator = Geolocator.load(self.model, "cpu" if self.device == "auto" else self.device)
        known = parse_given(self.given)
        locator.check_hints(known, not self.context_off)  # before the output is opened
        failed = 0
        with _opened(self.output) as out, self._writer(locator.features, out) as write:
            for row in self._rows(locator, files, known):
                if claimed is not None and not isinstance(row, Failure):
                    row = replace(row, claim=row.check(claimed))
                write(row)
                if isinstance(row, Failure):
                    failed += 1
                    if self.format != "text":
                        tqdm.write(f"{row.file}: {row.error}", file=sys.stderr)
        return 1 if failed else 0

    def _check_counts(self) -> None:
        if self.top_k < 1 or self.batch_size < 1:
            raise ValueError("--top-k and --batch-size must be 1 or more")
        if self.similar < 0:
            raise ValueError("--similar must be 0 or more")
        if self.workers is not None and self.workers < 1:
            raise ValueError("--workers must be 1 or more")

    def _run_bulk(self, source: Path) -> int:
        """Write predictions of millions of photos; unreadable ones are rows, and no failure."""
        self._check_counts()
        others = {
            "photos beside it": bool(self.photos),
            "--format": self.format != "text",
            "--together": self.together,
            "--similar": bool(self.similar),
        }
        if wrong := [name for name, given in others.items() if given]:
            raise ValueError(
                "--bulk writes one row for each photo of its input as Parquet: leave out "
                + " and ".join(wrong)
            )
        if self.output is None:
            raise ValueError("--bulk needs --output: the folder for the predictions")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"--device must be auto, cpu or cuda with --bulk, not {self.device}")
        from geoclip_core.bulk import BulkOptions, locate_bulk
        from geoclip_core.hints import parse_given

        options = BulkOptions(
            model=self.model,
            top_k=self.top_k,
            batch_size=self.batch_size,
            given=parse_given(self.given),
            use_context=not self.context_off,
            claim=self.claim,
        )
        locate_bulk(source, self.output, options, self.workers, self.device)
        return 0

    def _rows(
        self,
        locator: "Geolocator",
        named: list[tuple[str, Path]],
        known: "dict[str, str | int]",
    ) -> "Iterator[Row]":
        from tqdm import tqdm

        from geoclip_core.prediction import Failure
        from geoclip_core.training.embeddings import MANY_PHOTOS

        names, files = [name for name, _ in named], [file for _, file in named]
        if self.together:
            name = " + ".join(names)
            try:
                yield locator.locate(
                    files,
                    top_k=self.top_k,
                    name=name,
                    given=known,
                    use_context=not self.context_off,
                    similar=self.similar,
                )
            except PhotoError as error:
                yield Failure(name, str(error))
            return
        if len(files) >= MANY_PHOTOS:
            locator.accelerate()
        quiet = not sys.stderr.isatty() or len(files) == 1
        with tqdm(total=len(files), unit="photo", disable=quiet) as bar:
            rows = locator.locate_many(
                files,
                batch_size=self.batch_size,
                top_k=self.top_k,
                errors="yield",
                given=known,
                use_context=not self.context_off,
                similar=self.similar,
            )
            for name, row in zip(names, rows, strict=True):
                yield replace(row, file=name)
                bar.update()

    @contextlib.contextmanager
    def _writer(
        self, features: tuple[str, ...], out: TextIO
    ) -> "Iterator[Callable[[Row], object]]":
        """Yield a function that writes one row; formats that need all rows are written last."""
        from geoclip_core import formats

        if self.format == "csv":
            from geoclip_core.data.tables import csv_line  # imports pandas

            header = formats.csv_header(features, self.top_k)
            out.write(csv_line(header))
            yield lambda row: out.write(formats.to_csv_line(row, header))
        elif self.format in ("geojson", "kml"):
            rows: list[Row] = []
            yield rows.append
            print((formats.to_kml if self.format == "kml" else formats.to_geojson)(rows), file=out)
        else:
            line = formats.to_json_line if self.format == "json" else formats.to_text
            yield lambda row: print(line(row), file=out, flush=True)


def listed_photos(names: Sequence[str]) -> list[tuple[str, Path]]:
    """Return name in the output and path of photos, each folder replaced by the photos in it.

    The name is the path as given; for one folder alone, the path below it.

    Raises:
        ValueError: A folder holds no photo.
    """
    from geoclip_core.data.photos import PHOTO_SUFFIXES, photo_files

    files: list[tuple[str, Path]] = []
    for name in names:
        path = Path(name)
        if not path.is_dir():
            files.append((name, path))
            continue
        found = photo_files(path)
        if not found:
            raise ValueError(f"{path} holds no photo ({', '.join(sorted(PHOTO_SUFFIXES))})")
        for file in found:
            below = file.relative_to(path).as_posix()
            files.append((below if len(names) == 1 else str(file), file))
    return files


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    """Open the output: the screen, or a file that replaces an older one only when complete."""
    if path is None:
        yield sys.stdout
        return
    if not path.parent.is_dir():
        raise ValueError(f"--output: the folder {path.parent} does not exist")
    with (
        atomic_file(path) as unfinished,
        unfinished.open("w", encoding="utf-8", errors="backslashreplace", newline="") as out,
    ):
        yield out


@dataclass(frozen=True)
class Explain:
    """Show which parts of a photo an estimate rests on.

    Covers parts of the photo, one after another, and measures what each answer loses. Prints for
    each answer its support (expected GeoScore of the place, probability of a class) before and
    after the fifth of the photo that matters most is covered.
    """

    photo: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PHOTO")]
    """Photo file."""
    model: str = "mini"
    """Bundled name, run or checkpoint folder, or hub id."""
    answer: str = "place"
    """Answer to draw: "place" or a context feature."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="PNG")] = None
    """Write the photo with evidence for the answer in orange and against it in blue."""
    device: str = "cpu"
    """Torch device."""

    def run(self) -> int:
        """Print one line for each answer and draw one of them."""
        from tqdm import tqdm

        from geoclip_core.explain import PLACE
        from geoclip_core.locator import Geolocator

        if self.output is not None and self.output.suffix.lower() != ".png":
            raise ValueError(f"--output: {self.output} must end in .png")
        locator = Geolocator.load(self.model, self.device)
        answers = (PLACE, *(locator.features if locator.context_source == "photo" else ()))
        if self.answer not in answers:
            raise ValueError(
                f"--answer: {locator.name} gives no {self.answer!r}; choose {' or '.join(answers)}"
            )
        with tqdm(desc="explaining", unit=" views", file=sys.stderr, disable=None) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            explanation = locator.explain(self.photo, progress=progress)
        for answer, effect in explanation.effects.items():
            print(f"{answer}: {describe_effect(answer, effect)}")
        if self.output is not None:
            with atomic_file(self.output) as unfinished:
                explanation.overlay(self.answer).save(unfinished, "PNG")
        return 0


def describe_effect(answer: str, effect: "Effect") -> str:
    """Return an answer, its support, and what hiding the marked part costs."""
    from geoclip_core.explain import PLACE

    support = (
        f"expected GeoScore {effect.support:,.0f}"
        if answer == PLACE
        else f"probability {100 * effect.support:.1f} %"
    )
    costs = []
    for left in (effect.left, effect.left_elsewhere):
        lost = 1 - left / effect.support if effect.support > 0 else 0.0
        costs.append("nothing" if lost < 0.005 else f"{100 * lost:.0f} % of it")
    verdict = "" if effect.stands_out else " No part stands out."
    return (
        f"{effect.answer}: {support}. Hiding the part that matters most costs {costs[0]}; "
        f"hiding as much elsewhere costs {costs[1]}.{verdict}"
    )


@dataclass(frozen=True)
class Models:
    """List the models on this computer and those that can be downloaded."""

    format: Literal["text", "json"] = "text"
    """Output format; json writes one object a line."""
    cache_dir: CacheFolder = None
    """Folder of downloads (default: GEOCLIP_CACHE, or the platform's cache folder)."""

    def run(self) -> int:
        """Print bundled, downloaded and downloadable models."""
        from geoclip_core.hub.models import model_rows

        rows = model_rows(self.cache_dir)
        if self.format == "json":
            print("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
            return 0
        for kind, title in (("model", "Models"), ("backbone", "Backbones, to train heads on")):
            print(f"{title}:")
            for row in (row for row in rows if row["kind"] == kind):
                size = readable(row["bytes"]) if row["bytes"] else ""
                print(f"  {row['name']:<32} {row['state']:<12} {size:>8}  {row['licence'] or '?'}")
                print(f"      {row['good_for']}")
        folder = cache_folders(self.cache_dir).models
        print(f"\nDownloads are kept in {folder} (set {CACHE_VARIABLE} to use another folder).")
        print("Any hub repository user/name with safetensors weights can be downloaded as well.")
        return 0


@dataclass(frozen=True)
class Download:
    """Download a model once, for use without a network afterwards."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """A name that `geoclip models` lists, or any repository user/name on the hub."""
    yes: Annotated[bool, tyro.conf.arg(aliases=["-y"])] = False
    """Do not ask before downloading."""
    force: bool = False
    """Download again even if the model is there."""
    offline: bool = False
    """Do not use the network."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    wheel: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """For geoclip: its wheel, downloaded on another computer."""
    image_tower: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """For geoclip: a local folder with CLIP ViT-L/14."""
    cache_dir: CacheFolder = None
    """Folder of downloads (default: GEOCLIP_CACHE, or the platform's cache folder)."""

    def run(self) -> int:
        """Download the model after saying what it weighs and under which licence it is."""
        from geoclip_core.hub.catalogue import GEOCLIP, installed_model
        from geoclip_core.hub.download import download, download_job
        from geoclip_core.jobs import StatusWriter

        present = installed_model(self.name, self.cache_dir)
        if present is not None and not self.force:
            print(f"{self.name} is already there: {present.folder} ({readable(present.bytes)})")
            return 0
        print(self._announcement())
        asked = not self.yes and sys.stdin.isatty()
        if asked and input("Download it? [Y/n] ").strip().lower() not in ("", "y", "yes"):
            print("nothing was downloaded")
            return 1
        show = _progress_printer()
        status_path = download_job(self.name, self.cache_dir).status_path
        try:
            with StatusWriter(status_path, self.name, "bytes") as status:

                def progress(what: str, done: int, total: int | None) -> None:
                    status.update(done, total or 0, what)
                    show(what, done, total)

                item = download(
                    self.name,
                    root=self.cache_dir,
                    offline=self.offline,
                    revision=self.revision,
                    wheel=self.wheel,
                    image_tower=self.image_tower,
                    force=self.force,
                    progress=progress,
                )
                if self.name == GEOCLIP:
                    self._encode_gallery(item.folder, progress)
        finally:
            print(file=sys.stderr)
        size, licence = readable(item.bytes), item.licence or "?"
        print(f"{self.name} is ready: {item.folder} ({size}, licence {licence})")
        if self.cache_dir is not None:
            print(f"to use it from there, set {CACHE_VARIABLE}={self.cache_dir}")
        return 0

    def _announcement(self) -> str:
        from geoclip_core.hub.catalogue import TOWER_BYTES, catalogue_entry

        entry = catalogue_entry(self.name)
        where = cache_folders(self.cache_dir).models
        if entry is None:
            return f"{self.name}: for size and licence see its page on the hub; to {where}"
        size = entry.bytes if self.image_tower is None else entry.bytes - TOWER_BYTES
        return f"{self.name}: about {readable(size)}, licence {entry.licence}; to {where}"

    def _encode_gallery(self, folder: Path, progress: Callable[[str, int, int], None]) -> None:
        """Encode the gallery now, so that the first photo need not wait for it."""
        from geoclip_core.geoclip.gallery import open_gallery
        from geoclip_core.geoclip.weights import read_release

        release = read_release(folder)
        open_gallery(
            release.location_encoder,
            release.coordinates,
            cache_folders(self.cache_dir).galleries,
            lambda done, total: progress("encoding the gallery, places", done, total),
        )


def _progress_printer() -> Callable[[str, int, int | None], None]:
    """Return a function that shows progress: live on a terminal, else at every tenth part."""
    printed, step = 0.0, ("", -1)
    live = sys.stderr.isatty()

    def show(what: str, done: int, total: int | None) -> None:
        nonlocal printed, step
        share = done / total if total else 0.0
        amount = readable(done) if "places" not in what else f"{done:,}"
        text = f"{what}: {amount}" + (f" ({share:.0%})" if total else "")
        now = time.monotonic()
        if live and (now - printed > 0.1 or done == total):
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
            printed = now
        elif not live and step != (what, int(share * 10)):
            print(text, file=sys.stderr, flush=True)
            step = what, int(share * 10)

    return show


@dataclass(frozen=True)
class Push:
    """Upload a checkpoint with its model card to the hub."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """Checkpoint or run folder."""
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/NAME")]
    """Repository on the hub; created if it does not exist."""
    private: bool = False
    """Make a new repository private."""
    license: str | None = None
    """The hub's identifier of a licence (such as mit) for the model card."""

    def run(self) -> int:
        """Upload the checkpoint and print its address."""
        from geoclip_core.hub.models import push

        address = push(self.checkpoint, self.repository, private=self.private, licence=self.license)
        print(f"pushed: {address}")
        print(f'load it anywhere with Geolocator.load("{self.repository}")')
        return 0


CLASSES: dict[str, type[Locate | Explain | Models | Download | Push]] = {
    "locate": Locate,
    "explain": Explain,
    "models": Models,
    "download": Download,
    "push": Push,
}
"""Name of each command -> its class."""
