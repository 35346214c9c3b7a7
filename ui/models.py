"""Choose, load, run and download models on the pages.

A model is loaded once for all sessions, when a page first needs it. Its predictions are kept by the
digests of the photos, so that a rerun does not repeat them. Downloads run in processes of their own
and write their progress to the cache folder, so that they survive a reload of the page.
"""

import contextlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import streamlit as st

from geoclip_core.errors import CheckpointError, FileError, HintError, PhotoError
from geoclip_core.explain import Effect, Explanation
from geoclip_core.files import (
    OFFLINE_VARIABLE,
    cache_folders,
    is_offline,
    is_unicode,
    read_json,
    readable,
)
from geoclip_core.hub.catalogue import CATALOGUE, CatalogueEntry, installed_model, installed_models
from geoclip_core.hub.download import download_status, start_download
from geoclip_core.hub.models import bundled_models, checkpoint_folder
from geoclip_core.jobs import JobError, WorkStatus
from geoclip_core.locator import Geolocator, upright_photo
from geoclip_core.model.checkpoint import CONFIG, DOMAIN
from geoclip_core.model.domain import Domain
from geoclip_core.prediction import Failure, Prediction
from geoclip_core.training.embeddings import MANY_PHOTOS
from geoclip_core.training.runs import Run
from ui.page import choose, is_public, may_open, outside_roots, runs_folder, with_typed
from ui.photos import TrayPhoto, problem
from ui.theme import duration, kilometres, markdown_text, percent

Given = tuple[tuple[str, str], ...]
"""What is known about photos: (feature, value), as in ``Geolocator.locate``."""

_Question = tuple[tuple[str, ...], Given, bool]
"""Digests of photos of one place, what is known about them, and whether context is on."""

_NO_MODEL = "None"
_TOP_K = 5
_ANSWERS_KEPT = 1024
_SEARCHES_KEPT = 16


class Search:
    """The search for the reasons of one photo's answers, in a thread that no page waits for."""

    def __init__(self, run: Callable[[Callable[[int, int], None]], None]) -> None:
        self.done = self.total = 0
        """Pictures that the model has answered, of all; 0 of 0 until it is ready."""
        self.problem = ""
        """Why it found nothing, in a sentence."""
        self._first: tuple[float, int] | None = None
        self._stopped = threading.Event()
        # the thread drops its arguments, and with them the photo, when it ends
        self._thread = threading.Thread(target=self._work, args=(run,), name="why", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it goes on."""
        return self._thread.is_alive()

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until it ends; None: not known yet."""
        if self._first is None or self.done == self._first[1]:
            return None
        started, done = self._first
        return (time.monotonic() - started) / (self.done - done) * (self.total - self.done)

    def stop(self) -> None:
        """End it after the pictures that the model is looking at."""
        self._stopped.set()

    def wait(self) -> None:
        """Return when it has ended."""
        self._thread.join()

    def _work(self, run: Callable[[Callable[[int, int], None]], None]) -> None:
        with contextlib.suppress(_StoppedError):
            try:
                run(self._report)
            except (PhotoError, CheckpointError) as error:
                self.problem = str(error)

    def _report(self, done: int, total: int) -> None:
        if self._stopped.is_set():
            raise _StoppedError
        if self._first is None:  # the first step includes loading, so it says nothing about others
            self._first = time.monotonic(), done
        self.done, self.total = done, total


class _StoppedError(Exception):
    """Ends the work of a search that was stopped."""


class ServedModel:
    """A loaded model with its latest predictions; shared by all sessions."""

    def __init__(self, locator: Geolocator) -> None:
        self.locator = locator
        self._answers: OrderedDict[_Question, Prediction] = OrderedDict()
        self._effects: OrderedDict[str, dict[str, Effect]] = OrderedDict()
        self._searches: dict[str, Search] = {}
        self._lock = threading.Lock()

    def known(self, photos: Sequence[TrayPhoto], given: Given = ()) -> Prediction | None:
        """Return the kept prediction for these photos as one place, or None."""
        return self._answers.get((tuple(photo.digest for photo in photos), given, True))

    def accelerate(self) -> None:
        """Prepare the model for many photos (``Geolocator.accelerate``)."""
        with self._lock:
            self.locator.accelerate()

    def locate(
        self, photos: Sequence[TrayPhoto], given: Given = (), use_context: bool = True
    ) -> Prediction:
        """Predict one place from one or more photos of it, and what is known about them.

        ``use_context`` is that of ``Geolocator.locate``.

        Raises:
            HintError: what is known contradicts itself.
            PhotoError: if a photo cannot be read, or the model's weights give no estimate; the
                message names the photo or the model.
        """
        for photo in photos:
            if (reason := problem(photo)) is not None:
                raise PhotoError(reason)
        key = tuple(photo.digest for photo in photos), given, use_context
        name = " + ".join(photo.name for photo in photos)
        answer = self._answers.get(key)
        if answer is None:
            contents = [photo.content for photo in photos]
            source = contents[0] if len(contents) == 1 else contents
            # One photo at a time passes through the model: two at once would both take longer. They
            # are decoded before, so that a slow photo does not stop other sessions.
            try:
                answer = self.locator.locate(
                    source,
                    _TOP_K,
                    name=name,
                    given=dict(given) or None,
                    use_context=use_context,
                    lock=self._lock,
                )
                answer = replace(answer, exif=answer.exif or photos[0].truth)
            except CheckpointError as error:
                raise PhotoError(str(error)) from error
        with self._lock:
            self._answers[key] = answer
            self._answers.move_to_end(key)
            while len(self._answers) > _ANSWERS_KEPT:
                self._answers.popitem(last=False)
        # The prediction may have been made for the same bytes under another name.
        return answer if answer.file == name else replace(answer, file=name)

    def has_explained(self, photo: TrayPhoto) -> bool:
        """Whether ``explain`` has finished for a photo."""
        return photo.digest in self._effects

    def explanation(self, photo: TrayPhoto) -> Explanation:
        """Return what ``explain`` found.

        Raises:
            KeyError: if ``explain`` was not called for this photo.
        """
        effects = self._effects[photo.digest]
        preprocessing = self.locator.backbone.preprocessing
        image = upright_photo(photo.content, preprocessing, photo.name).image
        return Explanation(photo.name, self.locator.name, image, effects)

    def search(self, photo: TrayPhoto) -> Search | None:
        """Return the last search for the reasons of a photo's answers, or None."""
        return self._searches.get(photo.digest)

    def start_search(self, photo: TrayPhoto) -> Search:
        """Search for the reasons of a photo's answers, unless that has begun; return the search."""
        with self._lock:
            search = self._searches.get(photo.digest)
            if search is None or not search.running:
                search = Search(partial(self.explain, photo))
                ended = [digest for digest, one in self._searches.items() if not one.running]
                for digest in ended[: -_SEARCHES_KEPT or None]:
                    del self._searches[digest]
                self._searches[photo.digest] = search
            return search

    def explain(self, photo: TrayPhoto, progress: Callable[[int, int], None]) -> None:
        """Find the parts of a photo that support the answers, without blocking other sessions.

        Only the effects are kept, not the photo, which belongs to its session.

        Raises:
            PhotoError: if the photo cannot be read, or the model's weights give no estimate for it.
        """
        try:
            found = self.locator.explain(
                photo.content, photo.name, progress=progress, lock=self._lock
            )
        except CheckpointError as error:
            raise PhotoError(str(error)) from error
        with self._lock:
            self._effects[photo.digest] = found.effects
            while len(self._effects) > _ANSWERS_KEPT:
                self._effects.popitem(last=False)


def available_models() -> list[str]:
    """Return bundled models, runs with a checkpoint (newest first) and downloaded models."""
    finished = runs_folder().glob(f"*/checkpoint/{CONFIG}")
    runs = sorted((config.parent.parent for config in finished), reverse=True)
    downloaded = [item.name for item in installed_models() if item.kind != "backbone"]
    return [*bundled_models(), *filter(is_unicode, map(str, runs)), *downloaded]


def choose_model(
    label: str = "Model", key: str = "model", default: str = "mini", *, optional: bool = False
) -> str | None:
    """Draw a select box for a model; return its name, or None if none is chosen.

    A checkpoint folder or hub id may be typed, but not in public mode; ``optional`` adds the option
    "None".
    """
    chosen = choose(
        label,
        with_typed([*([_NO_MODEL] if optional else []), *available_models()], key),
        key,
        default=default,
        help="Bundled models and runs."
        if is_public()
        else "Bundled models and your own runs; or type a checkpoint folder or a hub id.",
        accept_new_options=True,
    )
    return None if chosen == _NO_MODEL else chosen


def choose_sibling(first: str | None) -> str | None:
    """Draw a select box for a second model; return its name, or None.

    Unless another was chosen, it is the first model's sibling: one without context that was trained
    on the same photos.
    """
    key, last = "second model", "proposed second model"
    names = tuple(available_models())
    proposed = (first and sibling_without_context(first, names)) or _NO_MODEL
    if st.session_state.get(key) in (None, st.session_state.get(last)):
        st.session_state[key] = proposed
    st.session_state[last] = proposed
    return choose_model("Model B, to compare with", key, proposed, optional=True)


@st.cache_data(max_entries=64, show_spinner=False)
def sibling_without_context(name: str, candidates: tuple[str, ...]) -> str | None:
    """Return the model without context that was trained on the same photos as ``name``, or None.

    None, too, if ``name`` itself has no context. Of several, the first with the same backbone, or
    else the first.
    """
    own = _training(name)
    if own is None or not own.use_context:
        return None
    siblings = [
        (other.backbone != own.backbone, position, candidate)
        for position, candidate in enumerate(candidates)
        if (other := _training(candidate)) and not other.use_context and other.same_photos(own)
    ]
    return min(siblings)[2] if siblings else None


@dataclass(frozen=True)
class _Training:
    """What a checkpoint says about how it was trained."""

    use_context: bool
    backbone: str
    photos: Domain | None
    """The domain without what the model was measured to know; None: not recorded."""
    data: str
    """The dataset in the options of its run; "" if there is no run."""

    def same_photos(self, other: "_Training") -> bool:
        """Whether both were trained on the same photos, as far as their records say."""
        if self.photos is not None and other.photos is not None:
            return self.photos == other.photos
        return bool(self.data) and self.data == other.data


def _training(name: str) -> _Training | None:
    """Return the record of a local checkpoint; None if there is none, or it cannot be read."""
    folder = checkpoint_folder(name)
    if folder is None:
        return None
    try:
        config = read_json(folder / CONFIG)
        model, backbone = config["model"], config["backbone"]  # type: ignore[index]
        photos = None
        if (folder / DOMAIN).is_file():
            photos = replace(Domain.read(folder / DOMAIN), held_out_scores=())
        return _Training(
            bool(model["use_context"]), str(backbone["name"]), photos, _run_data(folder.parent)
        )
    except (FileError, KeyError, TypeError):
        return None


def _run_data(folder: Path) -> str:
    try:
        return str(Run(folder).config.get("data") or "")
    except JobError:
        return ""


def served_model(name: str) -> ServedModel | None:
    """Return the model of a name, loaded once; on failure show an error and return None."""
    if (reason := _refusal(name)) is not None:
        st.error(markdown_text(reason), icon=":material/error:")
        return None
    folder = checkpoint_folder(name)
    try:
        # The checkpoint of a run may have changed since it was loaded.
        stamp = (folder / CONFIG).stat().st_mtime_ns if folder else 0
        return _load(name, stamp)
    except (CheckpointError, OSError) as error:  # the folder may vanish at any time
        text = f"The model **{markdown_text(name)}** cannot be loaded: {markdown_text(str(error))}"
        st.error(text, icon=":material/error:")
        return None


def _refusal(name: str) -> str | None:
    """Return why a model may not be loaded, in a sentence; None if it may."""
    if name in available_models():
        return None
    if is_public():
        return f"{name} is not one of the models of this app."
    # What is no path is looked up on a hub.
    return None if may_open(name) or not _is_path(name) else outside_roots(name)


def _is_path(name: str) -> bool:
    try:
        return os.path.lexists(Path(name).expanduser())
    except (OSError, RuntimeError, ValueError):  # no such user, a zero byte
        return False


@st.cache_resource(max_entries=4, show_spinner="Loading the model …")
def _load(name: str, stamp: int) -> ServedModel:
    return ServedModel(Geolocator.load(name))


def locate_photos(
    model: ServedModel, groups: Sequence[Sequence[TrayPhoto]], given: Given = ()
) -> list[Prediction | Failure]:
    """Predict a place for each group of photos, with a progress bar.

    ``given`` is what is known about all of them; if it contradicts itself, or a photo is
    unreadable, the group gives a ``Failure``. Photos that an interrupted run of the page
    has located are not located again.
    """
    waiting = sum(model.known(group, given) is None for group in groups)
    report = progress_bar("Located", "photos") if waiting > 1 else None
    done = 0
    if waiting >= MANY_PHOTOS:
        model.accelerate()
    rows: list[Prediction | Failure] = []
    for group in groups:
        fresh = model.known(group, given) is None
        try:
            rows.append(model.locate(group, given))
        except (PhotoError, HintError) as error:
            rows.append(Failure(" + ".join(photo.name for photo in group), str(error)))
        if fresh and report:
            done += 1
            report(done, waiting)
    return rows


def progress_bar(verb: str, unit: str) -> Callable[[int, int], None]:
    """Draw a progress bar; return a function of (done, total) that updates it.

    The bar shows the time left, and disappears when all is done.
    """
    bar = st.progress(0.0, "Getting ready …")
    first: tuple[float, int] | None = None

    def report(done: int, total: int) -> None:
        nonlocal first
        text = f"{verb} {done} of {total} {unit}"
        if first is None:  # the first step includes loading, so it says nothing about the rest
            first = time.monotonic(), done
        else:
            left = (time.monotonic() - first[0]) / (done - first[1]) * (total - done)
            text += f" · about {duration(left)} left"
        if done < total:
            bar.progress(done / total, text)
        else:
            bar.empty()

    return report


def accuracy_sentence(locator: Geolocator) -> str:
    """Say how far to trust a model, from the metrics saved with it, in Markdown."""
    metrics = locator.metrics
    name = markdown_text(locator.name)
    median, near = metrics.get("median_km"), (metrics.get("accuracy_at_km") or {}).get("750")
    published = metrics.get("published") or {"accuracy_at_km": {}}
    shares = published["accuracy_at_km"]
    if median is None and "25" in shares and "750" in shares:
        return (
            f"The authors of **{name}** report {percent(shares['25'])} of the photos of "
            f"{markdown_text(str(published['test']))} within 25 km and "
            f"{percent(shares['750'])} within 750 km "
            f"({markdown_text(str(published['source']))}). Other kinds of photos may be harder."
        )
    if median is None:
        return (
            f"The accuracy of **{name}** has not been measured: no metrics were saved with "
            "it. Treat its answers as hints."
        )
    count = metrics.get("n")
    tested = f"On {count:,} photos that it was not trained on" if count else "When it was tested"
    within = f", and {percent(near)} were within 750 km" if near is not None else ""
    hint = "Its answers are hints and often wrong" if median > 1000 else "Its answers are estimates"
    return (
        f"{tested}, half of the guesses of **{name}** were more than "
        f"**{kilometres(median)}** off{within}. {hint}: read the radius together with the pin."
    )


def model_downloads() -> None:
    """Draw an expander with the models of the catalogue that are not installed.

    Nothing in public mode.
    """
    if is_public():
        return
    entries = [
        entry
        for entry in CATALOGUE
        if entry.kind == "model" and (installed_model(entry.name) is None or _is_running(entry))
    ]
    if not entries:
        return
    was_started = any(download_status(entry.name) is not None for entry in entries)
    with st.expander("More models", icon=":material/cloud_download:", expanded=was_started):
        for entry in entries:
            _watch(entry.name) if _is_running(entry) else _offer(entry)
        st.caption("All models and training backbones: `python -m geoclip_core models`")


def _offer(entry: CatalogueEntry) -> None:
    st.markdown(
        f"**{entry.name}** · {readable(entry.bytes)} · licence {entry.licence}  \n"
        f"{entry.good_for[0].upper()}{entry.good_for[1:]}."
    )
    if is_offline():
        st.caption(f":material/wifi_off: The network is switched off ({OFFLINE_VARIABLE}).")
        return
    status = download_status(entry.name)
    failed = status is not None and status.state == "failed"
    if status is not None and failed:
        st.warning(markdown_text(status.error or ""), icon=":material/error:")
    st.button(
        "Try again" if failed else f"Download {readable(entry.bytes)}",
        key=f"download {entry.name}",
        icon=":material/download:",
        help=f"To {cache_folders().models}. An interrupted download continues where it stopped.",
        on_click=_start,
        args=(entry.name,),
    )


def _start(name: str) -> None:
    try:
        start_download(name)
    except (OSError, JobError) as error:
        text = f"The download cannot be started: {markdown_text(str(error))}"
        st.toast(text, icon=":material/error:")


@st.fragment(run_every=1.0)
def _watch(name: str) -> None:
    """Draw the progress of a running download; rerun the page when it ends."""
    status = download_status(name)
    if status is None or not status.active:
        if status is not None and status.state == "finished":
            st.toast(f"{name} is ready.", icon=":material/check_circle:")
        st.rerun()
        return
    st.markdown(f"**{name}** is being downloaded")
    st.progress(status.share, markdown_text(_step(status)))
    st.caption("You can keep working or close this page.")


def _step(status: WorkStatus) -> str:
    if "places" in status.title:
        return f"{status.title}: {status.done:,} of {status.total:,}"
    if not status.done:
        return status.title or "Starting"
    total = f" of {readable(status.total)}" if status.total else ""
    return f"{status.title}: {readable(status.done)}{total}"


def _is_running(entry: CatalogueEntry) -> bool:
    status = download_status(entry.name)
    return status is not None and status.active
