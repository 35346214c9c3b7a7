"""Choose, load, run and download models on the pages.

A model is loaded once for all sessions, when a page first needs it. Its predictions are kept by the
digests of the photos, so that a rerun does not repeat them. Downloads run in processes of their own
and write their progress to the cache folder, so that they survive a reload of the page.
"""

import contextlib
import os
import threading
import time
from collections import Counter, OrderedDict, deque
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
from geoclip_core.hub.catalogue import (
    CATALOGUE,
    GEOCLIP,
    CatalogueEntry,
    installed_model,
    installed_models,
)
from geoclip_core.hub.download import download_status, start_download
from geoclip_core.jobs import STATUS, JobError, WorkStatus
from geoclip_core.locator import EmbeddedPhoto, Geolocator, upright_photo
from geoclip_core.model.checkpoint import CONFIG, DOMAIN, bundled_models, checkpoint_folder
from geoclip_core.model.domain import Domain
from geoclip_core.prediction import Failure, Prediction, Similar
from geoclip_core.processes import Progress, give_back_memory
from geoclip_core.training.embeddings import MANY_PHOTOS
from geoclip_core.training.runs import Run
from ui.page import (
    address_of,
    choose,
    is_public,
    kept,
    may_open,
    outside_roots,
    runs_folder,
    with_typed,
)
from ui.photos import TrayPhoto, problem
from ui.theme import duration, kilometres, markdown_text, percent

Given = tuple[tuple[str, str], ...]
"""What is known about photos: (feature, value), as in ``Geolocator.locate``."""

_Question = tuple[tuple[str, ...], Given, bool]
"""Digests of photos of one place, what is known about them, and whether context is on."""

_NO_MODEL = "None"
_TOP_K = 5
_ANSWERS_KEPT = 1024
ANSWERS_BYTES = 700 * 10**6
"""Memory of the kept answers of a model, in bytes: those of GeoCLIP take 3 MB each."""
_AT_A_TIME = 8
"""Photos that are embedded before the page shows what is known so far."""
_BATCH = 4
_STOPPED, _LEFT = "stopped locating", "photos left to locate"
_SEARCHES_KEPT = 16


class Search:
    """The search for the reasons of one photo's answers, in a thread that no page waits for."""

    def __init__(self, run: Callable[[Progress], None]) -> None:
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

    def _work(self, run: Callable[[Progress], None]) -> None:
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


class Turns:
    """A lock that goes to whoever has waited longest.

    A `threading.Lock` goes to whoever runs when it is free: mostly the thread that has just
    released it, so that one with many batches would keep the others waiting until its last.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._taken = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            turn = threading.Event()
            self._waiting.append(turn)
        turn.wait()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False


class ServedModel:
    """A loaded model with its latest predictions; shared by all sessions.

    One batch at a time passes through its backbone, in turns: two at once would both take longer.
    All else, such as a kept answer, does not wait for that.
    """

    def __init__(self, locator: Geolocator) -> None:
        self.locator = locator
        self._answers: OrderedDict[_Question, Prediction] = OrderedDict()
        self._effects: OrderedDict[str, dict[str, Effect]] = OrderedDict()
        self._searches: dict[str, Search] = {}
        self._embedded: OrderedDict[str, EmbeddedPhoto] = OrderedDict()
        self._turns = Turns()
        self._lock = threading.Lock()
        """Held for a moment, while what is kept changes; never while the model runs."""

    def known(self, photos: Sequence[TrayPhoto], given: Given = ()) -> Prediction | None:
        """Return the kept prediction for these photos as one place, or None."""
        return self._answers.get((tuple(photo.digest for photo in photos), given, True))

    def has_embedded(self, photo: TrayPhoto) -> bool:
        """Whether a photo has passed through the backbone, so that it is located at once."""
        return photo.digest in self._embedded

    def embed(self, photos: Sequence[TrayPhoto]) -> None:
        """Pass readable photos through the backbone, in batches, the next read meanwhile.

        Raises:
            PhotoError: if a photo cannot be read, or the weights give no numbers.
        """
        fresh = [photo for photo in photos if not self.has_embedded(photo)]
        try:
            items = self.locator.embed(
                [photo.content for photo in fresh], batch_size=_BATCH, lock=self._turns
            )
            for photo, item in zip(fresh, items, strict=True):
                if isinstance(item, Failure):
                    raise PhotoError(item.error)
                with self._lock:
                    self._embedded[photo.digest] = item
                    while len(self._embedded) > _ANSWERS_KEPT:
                        self._embedded.popitem(last=False)
        except CheckpointError as error:
            raise PhotoError(str(error)) from error

    def _embeddings(self, photos: Sequence[TrayPhoto]) -> list[EmbeddedPhoto]:
        """Return photos that have passed through the backbone, under their names."""
        self.embed(photos)
        return [replace(self._embedded[photo.digest], file=photo.name) for photo in photos]

    def similar(self, photo: TrayPhoto, prediction: Prediction) -> Similar:
        """Return the training photos that look most like a photo.

        Raises:
            PhotoError: if it cannot be read.
        """
        pin = prediction.latitude, prediction.longitude
        return self.locator.similar(self._embeddings([photo])[0], origin=pin)

    def accelerate(self) -> None:
        """Prepare the model for many photos (``Geolocator.accelerate``)."""
        with self._turns:
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
            embedded = self._embeddings(photos)
            try:
                answer = self.locator.locate(
                    embedded,
                    _TOP_K,
                    name=name,
                    given=dict(given) or None,
                    use_context=use_context,
                )
                answer = replace(answer, exif=answer.exif or photos[0].truth)
            except CheckpointError as error:
                raise PhotoError(str(error)) from error
        with self._lock:
            self._answers[key] = answer
            self._answers.move_to_end(key)
            size = sum(map(_answer_bytes, self._answers.values()))
            while len(self._answers) > 1 and (
                len(self._answers) > _ANSWERS_KEPT or size > ANSWERS_BYTES
            ):
                _, oldest = self._answers.popitem(last=False)
                size -= _answer_bytes(oldest)
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

    def explain(self, photo: TrayPhoto, progress: Progress) -> None:
        """Find the parts of a photo that support the answers, without blocking other sessions.

        Only the effects are kept, not the photo, which belongs to its session.

        Raises:
            PhotoError: if the photo cannot be read, or the model's weights give no estimate for it.
        """
        try:
            found = self.locator.explain(
                photo.content, photo.name, progress=progress, lock=self._turns
            )
        except CheckpointError as error:
            raise PhotoError(str(error)) from error
        with self._lock:
            self._effects[photo.digest] = found.effects
            while len(self._effects) > _ANSWERS_KEPT:
                self._effects.popitem(last=False)


def _answer_bytes(answer: Prediction) -> int:
    """Return the memory of an answer: its points, and their weights with and without logarithm."""
    posterior = answer.posterior
    size = posterior.points.nbytes + 2 * posterior.log_weights.nbytes
    size += 0 if posterior.scores is None else posterior.scores.nbytes
    return size + (0 if answer.without_given is None else _answer_bytes(answer.without_given))


def available_models() -> list[str]:
    """Return bundled models, runs with a checkpoint (newest first) and downloaded models."""
    finished = runs_folder().glob(f"*/checkpoint/{CONFIG}")
    runs = sorted((config.parent.parent for config in finished), reverse=True)
    downloaded = [item.name for item in installed_models() if item.kind != "backbone"]
    return [*bundled_models(), *filter(is_unicode, map(str, runs)), *downloaded]


def model_labels(names: Sequence[str]) -> dict[str, str]:
    """Return a unique label for each model: of a run the name that the user gave it."""
    labels = {}
    for name in names:
        run = Run(Path(name))
        labels[name] = run.title if os.path.isfile(run.folder / STATUS) else name
    often = Counter(labels.values())
    return {
        name: text if often[text] == 1 or text == name else f"{text} ({Path(name).name})"
        for name, text in labels.items()
    }


def parameter_of(key: str) -> str:
    """Return the query parameter for the model of a select box."""
    return key.replace(" ", "-")


def choose_model(
    label: str = "Model", key: str = "model", default: str = "mini", *, optional: bool = False
) -> str | None:
    """Draw a select box for a model; return its name, or None if none is chosen.

    A checkpoint folder or hub id may be typed, but not in public mode; ``optional`` adds the option
    "None".
    """
    names = with_typed([*([_NO_MODEL] if optional else []), *available_models()], key)
    labels = model_labels(names)
    chosen = choose(
        label,
        names,
        key,
        default=default,
        format_func=lambda name: labels.get(name, name),
        address=(parameter_of(key), lambda name: address_of(Path(name))),
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
    linked = key not in st.session_state and parameter_of(key) in st.query_params
    if not linked and st.session_state.get(key) in (None, st.session_state.get(last)):
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
) -> list[Prediction | Failure | None]:
    """Predict a place for each group of photos; draw progress and "Stop" while photos are left.

    ``given`` is what is known about all of them; if it contradicts itself, or a photo is
    unreadable, the group gives a ``Failure``. A group whose turn has not come gives None: the page
    shows the others, and calls ``go_on`` when it has drawn them.
    """
    photos = [
        photo
        for group in groups
        if model.known(group, given) is None
        for photo in group
        if not model.has_embedded(photo) and problem(photo) is None
    ]
    shown = tuple(photo.digest for group in groups for photo in group)
    stopped = st.session_state.get(_STOPPED) == shown
    if len(photos) >= MANY_PHOTOS and not stopped:
        model.accelerate()
    now = [] if stopped else photos[:_AT_A_TIME]
    left = {photo.digest for photo in photos[len(now) :]}
    if left:
        _progress_of_photos(len(shown) - len(photos), len(shown), stopped, shown)
    try:
        model.embed(now)
    except PhotoError:
        left = set()  # the model answers no photo: each says why
    if len(photos) > 1 and not left:
        give_back_memory()  # the last of many has been decoded
    st.session_state[_LEFT] = 0 if stopped else len(left)
    return [
        None if any(photo.digest in left for photo in group) else _located(model, group, given)
        for group in groups
    ]


def _located(model: ServedModel, group: Sequence[TrayPhoto], given: Given) -> Prediction | Failure:
    try:
        return model.locate(group, given)
    except (PhotoError, HintError) as error:
        return Failure(" + ".join(photo.name for photo in group), str(error))


def go_on() -> None:
    """Run the page again if photos are left to locate, as long as that makes their number fall."""
    left = int(st.session_state.get(_LEFT, 0))
    before = kept("photos left before", lambda: [0])
    if not left:
        before[0] = 0
    elif not before[0] or left < before[0]:
        before[0] = left
        st.rerun()


def _progress_of_photos(done: int, total: int, stopped: bool, shown: tuple[str, ...]) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if stopped:
            st.caption(f"Stopped: {done} of {total} photos are located.")
        else:
            st.progress(done / total, f"Located {done} of {total} photos")
        st.button(
            "Locate the others" if stopped else "Stop",
            key="go on" if stopped else "stop",
            icon=":material/play_arrow:" if stopped else ":material/stop:",
            on_click=_set_stopped,
            args=(None if stopped else shown,),
        )


def _set_stopped(shown: tuple[str, ...] | None) -> None:
    st.session_state[_STOPPED] = shown


def progress_bar(verb: str, unit: str) -> Progress:
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


def stronger_model() -> str | None:
    """Say in one sentence that a stronger model can be downloaded; None if it is there or cannot.

    Nothing in public mode, and without a network.
    """
    entry = next(entry for entry in CATALOGUE if entry.name == GEOCLIP)
    if is_public() or is_offline() or installed_model(entry.name) is not None:
        return None
    return (
        f"For better answers, download {entry.name} ({readable(entry.bytes)}, once) under "
        "“More models”: it knows the whole world."
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
