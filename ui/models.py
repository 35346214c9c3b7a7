"""Models to be had: what each weighs, allows and is good for, and a button that fetches it.

A download runs in a process of its own and writes how it is getting on to the cache folder, so
that a reload, a second tab or a closed browser loses nothing.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

import streamlit as st

from geoclip_core.errors import CheckpointError, PhotoError
from geoclip_core.explain import Effect, Explanation
from geoclip_core.files import OFFLINE_VARIABLE, cache_folders, is_offline, readable
from geoclip_core.hub.catalogue import CATALOGUE, CatalogueEntry, installed_model, installed_models
from geoclip_core.hub.download import DownloadStatus, read_status, start_download
from geoclip_core.hub.models import bundled_models, checkpoint_folder
from geoclip_core.locator import MANY_PHOTOS, Geolocator, upright_photo
from geoclip_core.model.checkpoint import CONFIG
from geoclip_core.prediction import Failure, Prediction
from ui.page import choose, kept, runs_folder
from ui.photos import TrayPhoto, problem
from ui.theme import kilometres, markdown_text, percent

NONE = "None"
TOP_K = 5
_ANSWERS_KEPT = 1024


class ServedModel:
    """A loaded model with the answers that it has given."""

    def __init__(self, locator: Geolocator) -> None:
        self.locator = locator
        self._answers: OrderedDict[tuple[str, ...], Prediction] = OrderedDict()
        self._effects: OrderedDict[str, dict[str, Effect]] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, photos: Sequence[TrayPhoto]) -> Prediction | None:
        """The answer for these photos as one place, if it was given before."""
        return self._answers.get(tuple(photo.digest for photo in photos))

    def accelerate(self) -> None:
        """Get ready for many photos."""
        with self._lock:
            self.locator.accelerate()

    def locate(self, photos: Sequence[TrayPhoto]) -> Prediction:
        """One place from one or more photos of it.

        Raises:
            PhotoError: naming the photo that cannot be read.
        """
        for photo in photos:
            if (reason := problem(photo)) is not None:
                raise PhotoError(reason)
        key = tuple(photo.digest for photo in photos)
        name = " + ".join(photo.name for photo in photos)
        # One photo at a time: two sessions that compute at once are both slower.
        with self._lock:
            if key not in self._answers:
                contents = [photo.content for photo in photos]
                source = contents[0] if len(contents) == 1 else contents
                self._answers[key] = self.locator.locate(source, TOP_K, name=name)
            self._answers.move_to_end(key)
            while len(self._answers) > _ANSWERS_KEPT:
                self._answers.popitem(last=False)
            # The same bytes may come again under another name.
            return replace(self._answers[key], file=name)

    def has_explained(self, photo: TrayPhoto) -> bool:
        """Whether the reasons for the answers about a photo were looked for before."""
        return photo.digest in self._effects

    def explanation(self, photo: TrayPhoto) -> Explanation:
        """The reasons that :meth:`explain` found.

        Raises:
            KeyError: they were not looked for.
        """
        effects = self._effects[photo.digest]
        preprocessing = self.locator.backbone.preprocessing
        image = upright_photo(photo.content, preprocessing, photo.name).image
        return Explanation(photo.name, self.locator.name, image, effects)

    def explain(self, photo: TrayPhoto, progress: Callable[[int, int], None]) -> None:
        """Look for the parts of a photo on which the answers rest; other sessions go on meanwhile.

        What is kept is no picture: photos are their session's alone.

        Raises:
            PhotoError: the photo cannot be read.
        """
        found = self.locator.explain(photo.content, photo.name, progress=progress, lock=self._lock)
        with self._lock:
            self._effects[photo.digest] = found.effects
            while len(self._effects) > _ANSWERS_KEPT:
                self._effects.popitem(last=False)


def available_models() -> list[str]:
    """Bundled models, runs with a finished checkpoint (the newest first), downloaded models."""
    finished = runs_folder().glob(f"*/checkpoint/{CONFIG}")
    runs = sorted((config.parent.parent for config in finished), reverse=True)
    downloaded = [item.name for item in installed_models() if item.kind != "backbone"]
    return [*bundled_models(), *(str(run) for run in runs), *downloaded]


def choose_model(
    label: str = "Model", key: str = "model", default: str = "mini", *, optional: bool = False
) -> str | None:
    """A select box for a model; a checkpoint folder or hub id may be typed as well.

    Args:
        label: what the model is for.
        key: the same on every page that offers this choice.
        default: chosen at first, if it is there.
        optional: whether "none" may be chosen too.
    """
    typed = kept(f"typed {key}", list)
    options = [*([NONE] if optional else []), *available_models(), *typed]
    current = st.session_state.get(key)
    if isinstance(current, str) and current and current not in options:
        typed.append(current)
        options.append(current)
    chosen = choose(
        label,
        options,
        key,
        default=default,
        help="Bundled models and your own runs; or type a checkpoint folder or a hub id.",
        accept_new_options=True,
    )
    return None if chosen == NONE else chosen


def served_model(name: str) -> ServedModel | None:
    """The model of a name, loaded once; None, with an error on the page, if it cannot be."""
    folder = checkpoint_folder(name)
    # A run that was trained again is another model under the same name.
    stamp = (folder / CONFIG).stat().st_mtime_ns if folder else 0
    try:
        return _load(name, stamp)
    except CheckpointError as error:
        st.error(f"The model **{name}** cannot be loaded: {error}", icon=":material/error:")
        return None


@st.cache_resource(max_entries=4, show_spinner="Loading the model …")
def _load(name: str, stamp: int) -> ServedModel:
    return ServedModel(Geolocator.load(name))


def locate_photos(
    model: ServedModel, groups: Sequence[Sequence[TrayPhoto]]
) -> list[Prediction | Failure]:
    """The answer for each group of photos (a group is one place), with progress on the page.

    A photo that cannot be read gives a ``Failure`` in its place; the rest go on. What was located
    before a rerun interrupted this is not located again.
    """
    waiting = sum(model.known(group) is None for group in groups)
    report = progress_bar("Located", "photos") if waiting > 1 else None
    done = 0
    if waiting >= MANY_PHOTOS:
        model.accelerate()
    rows: list[Prediction | Failure] = []
    for group in groups:
        fresh = model.known(group) is None
        try:
            rows.append(model.locate(group))
        except PhotoError as error:
            rows.append(Failure(" + ".join(photo.name for photo in group), str(error)))
        if fresh and report:
            done += 1
            report(done, waiting)
    return rows


def progress_bar(verb: str, unit: str) -> Callable[[int, int], None]:
    """A bar with the time that is left, to be told (done, total); it goes when all is done."""
    bar = st.progress(0.0, "Getting ready …")
    first: tuple[float, int] | None = None

    def report(done: int, total: int) -> None:
        nonlocal first
        text = f"{verb} {done} of {total} {unit}"
        if first is None:  # until now it was getting ready as well: no measure for the rest
            first = time.monotonic(), done
        else:
            left = (time.monotonic() - first[0]) / (done - first[1]) * (total - done)
            text += f" · about {_duration(left)} left"
        if done < total:
            bar.progress(done / total, text)
        else:
            bar.empty()

    return report


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min"


def accuracy_sentence(locator: Geolocator) -> str:
    """How far to trust a model, in plain words, from the numbers saved with it."""
    metrics = locator.metrics
    median, near = metrics.get("median_km"), metrics.get("accuracy_at_km", {}).get("750")
    if median is None and (published := metrics.get("published")):
        shares = published["accuracy_at_km"]
        return (
            f"Of **{locator.name}** its authors report {percent(shares['25'])} of the photos of "
            f"{published['test']} within 25 km and {percent(shares['750'])} within 750 km "
            f"({published['source']}). Photos of another kind may fare worse."
        )
    if median is None:
        return (
            f"How good **{locator.name}** is has not been measured: no metrics were saved with it. "
            "Take its answers as hints."
        )
    size = "a small model" if median > 1000 else "a model"
    photos = f" on {metrics['n']:,} photos that it had not seen" if metrics.get("n") else ""
    within = f", and {percent(near)} were within 750 km" if near is not None else ""
    hint = "Its answers are hints, often wrong" if median > 1000 else "Its answers are estimates"
    return (
        f"**{locator.name}** is {size}: tested{photos}, half of its guesses were more than "
        f"**{kilometres(median)}** off{within}. {hint}: read the radius with the pin."
    )


def model_downloads() -> None:
    """A fold in the sidebar with the models of the catalogue that are not here yet."""
    entries = [
        entry
        for entry in CATALOGUE
        if entry.kind == "model" and (installed_model(entry.name) is None or _is_running(entry))
    ]
    if not entries:
        return
    told = any(read_status(entry.name) is not None for entry in entries)
    with st.expander("More models", icon=":material/cloud_download:", expanded=told):
        for entry in entries:
            _watch(entry.name) if _is_running(entry) else _offer(entry)
        st.caption(
            "All that can be had, backbones for training too: `python -m geoclip_core models`"
        )


def _offer(entry: CatalogueEntry) -> None:
    st.markdown(
        f"**{entry.name}** · {readable(entry.bytes)} · licence {entry.licence}  \n"
        f"{entry.good_for[0].upper()}{entry.good_for[1:]}."
    )
    if is_offline():
        st.caption(f":material/wifi_off: The network is switched off ({OFFLINE_VARIABLE}).")
        return
    status = read_status(entry.name)
    if status is not None and status.state == "failed":
        st.warning(markdown_text(status.error), icon=":material/error:")
    again = status is not None and status.state == "failed"
    st.button(
        "Try again" if again else f"Download {readable(entry.bytes)}",
        key=f"download {entry.name}",
        icon=":material/download:",
        help=f"To {cache_folders().models}. It goes on where it was interrupted.",
        on_click=_start,
        args=(entry.name,),
    )


def _start(name: str) -> None:
    try:
        start_download(name)
    except OSError as error:
        st.toast(f"The download cannot be started: {error}", icon=":material/error:")


@st.fragment(run_every=1.0)
def _watch(name: str) -> None:
    """The progress of a running download; the whole page runs again when it ends."""
    status = read_status(name)
    if status is None or status.state != "running":
        if status is not None and status.state == "finished":
            st.toast(f"{name} is ready.", icon=":material/check_circle:")
        st.rerun()
        return
    st.markdown(f"**{name}** is being downloaded")
    st.progress(status.share or 0.0, markdown_text(_step(status)))
    st.caption("You can go on working, and close this page.")


def _step(status: DownloadStatus) -> str:
    if "places" in status.what:
        return f"{status.what}: {status.done:,} of {status.total or 0:,}"
    if not status.done:
        return status.what
    total = f" of {readable(status.total)}" if status.total else ""
    return f"{status.what}: {readable(status.done)}{total}"


def _is_running(entry: CatalogueEntry) -> bool:
    status = read_status(entry.name)
    return status is not None and status.state == "running"
