"""`fit --extend`: add photos to the bank of a model, in closed form.

A bank keeps the directions of its photos' embeddings, their coordinates and their labels, which is
all that kernel ridge needs: the heads are fitted again to the old photos and the new ones, with the
statistics and the options of the model. The photos of the model are not needed.
"""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoclip_core.data import KNOWN_FEATURES
from geoclip_core.data.dataset import PhotoDataset
from geoclip_core.data.vocabulary import (
    FIXED_VOCABULARIES,
    IGNORE_INDEX,
    Vocabulary,
    extended_vocabularies,
)
from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.earth.sphere import geoscore, haversine_km
from geoclip_core.errors import FileError, TrainingError
from geoclip_core.evaluation.evaluate import PREDICTIONS
from geoclip_core.evaluation.intervals import mean_intervals
from geoclip_core.evaluation.predictions import write_predictions
from geoclip_core.files import read_json
from geoclip_core.model.bank_heads import MAX_RIDGE_BANK, BankHead, KernelContextHeads
from geoclip_core.model.checkpoint import (
    CONFIG,
    bundled_models,
    checkpoint_folder,
    named_folder,
    save_checkpoint,
)
from geoclip_core.model.domain import Domain
from geoclip_core.model.geolocation import GeolocationModel
from geoclip_core.processes import Progress
from geoclip_core.training.cards import extension_card
from geoclip_core.training.fit_bank import (
    BankData,
    BankInputs,
    can_be_held_out,
    errors_km,
    fit_bank_model,
    held_out_errors,
    measure,
)
from geoclip_core.training.inputs import learnable_vocabularies
from geoclip_core.training.options import FitOptions

LEAST_ADDED = 5
"""Fewest photos that can be added."""
CALIBRATIONS = 3
"""Parts of the folds that share a calibration: those of ten folds would take most of the time."""
SAME_SIMILARITY, SAME_KM = 0.999, 0.05
"""A photo as similar and as near to one of the bank is that photo."""


def extend_bank(
    dataset: PhotoDataset,
    embeddings: NDArray[np.floating],
    base: GeolocationModel,
    options: FitOptions,
    folder: str | Path,
    *,
    name: str,
    command: str,
    base_card: str = "",
    save_backbone: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Add photos to the bank of a model, measure the result, and write its checkpoint.

    Every photo, old or new, is located by models that were fitted without it; table and metrics are
    those of the added photos, and the calibration is that of all.

    Args:
        dataset: n photos; those of train and val are added, or with `options.bank.all_rows` all.
        embeddings: (n, D) embeddings of the photos; rows of NaN (unreadable photos) are left out.
        base: the model, with its backbone.
        options: folds, seed, note and licence.
        folder: checkpoint folder; the predictions of the cross-validation are written there too.
        name: name of the new model.
        command: command line of the fit, for the model card.
        base_card: model card of the base, whose licence the new one quotes.
        save_backbone: whether the base's checkpoint holds the backbone's weights.
        progress: called with (steps done, all steps).

    Returns:
        The content of the checkpoint's metrics.json.

    Raises:
        TrainingError: the model has no bank, too few or too many photos, or all are in the bank.
    """
    head = bank_of(base)
    raw = np.asarray(embeddings, dtype=np.float32)
    readable = np.isfinite(raw).all(axis=1)
    used = readable if options.bank.all_rows else readable & dataset.learnable
    known = np.zeros(len(dataset), dtype=bool)
    known[used] = _in_bank(base, raw[used], dataset.coordinates[used])
    used &= ~known
    _check_number(head, dataset, used, known, base.name)
    new = dataset.select(used)
    own = torch.from_numpy(raw[used])
    inputs, photos, is_new = extended_inputs(base, new, own, options)
    kept, vocabularies = inputs.options, inputs.vocabularies
    share = _Shares(progress)
    report = share.part(0.0, 0.6)
    measured = measure(inputs, photos, report, reported=is_new, calibrations=CALIBRATIONS)
    comparison = Comparison(inputs, new, own, is_new, measured.partitions, measured.errors_km)
    extension = comparison.measure(share.part(0.6, 1.0))
    model = fit_bank_model(inputs, name)
    model.calibration = measured.calibration
    domain = base.domain or Domain.of(photos.select(~is_new))
    model.domain = domain.merged(Domain.of(new, base.unlikeness(own)))
    assert base.backbone is not None  # loaded with it
    model.attach_backbone(base.backbone)
    folds = options.bank.folds
    metrics = {
        **measured.metrics,
        "extension": {
            "base": base.name,
            "base_photos": len(head.bank),
            "added": len(new),
            "already_in_bank": int(known.sum()),
            **extension,
        },
        "name": name,
        "dataset": dataset.name,
        "photos": len(photos),
        "unreadable": int((~readable).sum()),
        "measured_by": (
            f"{folds}-fold cross-validation over the added photos, seed {options.seed}"
        ),
        "note": options.bank.note,
        "command": command,
    }
    card = extension_card(model, metrics, new, kept, command, base_card)
    with tempfile.TemporaryDirectory() as scratch:
        about = {
            "model": name,
            "dataset": dataset.name,
            "split": "cross-validation",
            "note": f"the photos that were added to {base.name}; each was located by a model that "
            "was not trained on it",
            "use_context": bool(vocabularies),
        }
        path = write_predictions(measured.frame, Path(scratch) / PREDICTIONS, about)
        files = {PREDICTIONS: path}
        save_checkpoint(folder, model, metrics, card, save_backbone=save_backbone, files=files)
    return metrics


def extended_inputs(
    base: GeolocationModel, new: PhotoDataset, raw: Tensor, options: FitOptions
) -> tuple[BankInputs, PhotoDataset, NDArray[np.bool_]]:
    """Return what an extended model is fitted from, its n photos, and which of them are new.

    Args:
        base: the model to extend.
        new: m photos to add, all of which become training photos.
        raw: (m, D) their embeddings.
        options: folds and seed of the cross-validation.
    """
    new.table["split"] = "train"
    old = bank_photos(base)
    photos = replace(new, table=pd.concat([old.table, new.table], ignore_index=True))
    vocabularies = extended_vocabularies(base.vocabularies, new.table)
    vectors = torch.cat([bank_embeddings(base), _standing_in(base, base.normaliser(raw))])
    data = BankData(vectors, photos.coordinates, photos.labels(vocabularies))
    kept = _kept_options(base, options)
    inputs = BankInputs(data, vocabularies, kept, base.backbone_config, base.block_widths, base)
    return inputs, photos, np.arange(len(photos)) >= len(old)


def base_folder(source: str) -> Path:
    """Return the checkpoint of a model that is to be extended: a bundled name, run or folder.

    Raises:
        TrainingError: there is none.
    """
    folder = checkpoint_folder(source)
    if folder is None:
        raise TrainingError(
            f"extend: there is no model {source}: give a run, a checkpoint folder, or one of "
            f"{', '.join(bundled_models())}"
        )
    return folder


def bank_models(names: Iterable[str]) -> list[str]:
    """Return the models, of those with these names, that have a bank; none is loaded."""
    found = []
    for name in names:
        folder = checkpoint_folder(name)
        try:
            content = read_json(folder / CONFIG) if folder is not None else None
        except FileError:
            continue
        model = content.get("model") if isinstance(content, dict) else None
        # the second is the name of format 1
        if isinstance(model, dict) and model.get("coordinate_head") in ("bank", "retrieval"):
            found.append(name)
    return found


def lasting_name(source: str) -> str:
    """Return a name of the same model that means the same from any folder."""
    folder = named_folder(source)
    return source if folder is None or source in bundled_models() else str(folder.absolute())


def bank_of(model: GeolocationModel) -> BankHead:
    """Return the bank of a model that can be extended.

    Raises:
        TrainingError: it has none, or its context heads do not read it.
    """
    head = model.coordinate_head
    if not isinstance(head, BankHead) or not len(head.bank):
        raise TrainingError(
            f"{model.name} cannot be extended: its coordinate head is "
            f"{model.config.coordinate_head}, and only a bank grows"
        )
    if model.context_heads is not None and not isinstance(model.context_heads, KernelContextHeads):
        raise TrainingError(
            f"{model.name} cannot be extended: its context heads were trained by gradient descent"
        )
    return head


def bank_embeddings(model: GeolocationModel) -> Tensor:
    """Return vectors (n, D) that the model's normaliser maps to the directions in its bank.

    They stand in for the raw embeddings, of which the bank does not keep the lengths of blocks.
    """
    head = bank_of(model)
    return _standing_in(model, head.bank[:, : model.embedding_width].float())


def _standing_in(model: GeolocationModel, directions: Tensor) -> Tensor:
    """Return embeddings (n, D) whose standardised blocks have these directions, and length √width.

    With the old and new photos in this form, anything that compares embeddings treats them alike.
    """
    blocks = []
    for block in torch.split(directions, list(model.block_widths), dim=1):
        norm = block.norm(dim=1, keepdim=True).clamp_min(1e-6)
        blocks.append(block * (block.shape[1] ** 0.5 / norm))
    return torch.cat(blocks, dim=1) * model.normaliser.scale + model.normaliser.mean


def bank_photos(model: GeolocationModel) -> PhotoDataset:
    """Return the photos in a model's bank, as far as it keeps them: coordinates and labels.

    Places that the model has no labels of are those of the nearest town.
    """
    head = bank_of(model)
    coordinates = head.coordinates.double().cpu().numpy()
    count = len(coordinates)
    near = Gazetteer.load().frame(coordinates)
    ids = [f"{model.name}#{row}" for row in range(count)]
    table = pd.DataFrame({"id": ids, "path": "", "split": "train"})
    table["latitude"], table["longitude"] = coordinates[:, 0], coordinates[:, 1]
    table["captured_at"] = pd.Series(pd.NaT, index=table.index, dtype="datetime64[ms, UTC]")
    table["sequence"] = pd.Series(pd.NA, index=table.index, dtype="str")
    columns = {"country": "country", "state": "region", "county": "sub-region", "city": "city"}
    for feature in KNOWN_FEATURES:
        labels = np.full(count, IGNORE_INDEX, dtype=np.int64)
        vocabulary = model.vocabularies.get(feature)
        if vocabulary is not None and model.context_heads is not None:
            labels = model.context_heads.get_buffer(f"labels_{feature}").long().cpu().numpy()
        if feature in FIXED_VOCABULARIES:
            table[feature] = labels.astype(np.int16)
            continue
        table[feature], table[f"{feature}_key"] = (
            near[columns[feature]],
            near[f"unique_{columns[feature]}"],
        )
        if vocabulary is not None:
            has, keys = labels >= 0, np.array([*vocabulary.keys, None], dtype=object)
            names = np.array([*vocabulary.names, None], dtype=object)
            rows = np.where(has, labels, len(vocabulary))
            table[f"{feature}_key"] = pd.Series(keys[rows], index=table.index, dtype="str")
            table[feature] = pd.Series(names[rows], index=table.index, dtype="str")
    return PhotoDataset(Path(), model.name, table)


def _in_bank(
    model: GeolocationModel, raw: NDArray[np.float32], coordinates: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which photos (n,) the bank holds already."""
    head = bank_of(model)
    if not len(raw):
        return np.zeros(0, dtype=bool)
    alike = head.embedding_similarity(model.normaliser(torch.from_numpy(raw)))
    places = head.coordinates.double().cpu().numpy()
    near = haversine_km(coordinates[:, None], places[None]) < SAME_KM
    same: NDArray[np.bool_] = (near & (alike.cpu().numpy() > SAME_SIMILARITY)).any(axis=1)
    return same


def _check_number(
    head: BankHead,
    dataset: PhotoDataset,
    used: NDArray[np.bool_],
    known: NDArray[np.bool_],
    name: str,
) -> None:
    count = int(used.sum())
    if count < LEAST_ADDED:
        already = f", besides {known.sum()} that are in its bank already" if known.any() else ""
        raise TrainingError(
            f"{dataset.root}: {LEAST_ADDED} photos are needed to extend {name}, and there are "
            f"{count}{already}"
        )
    total = count + len(head.bank)
    if total > MAX_RIDGE_BANK and (head.vote == "kernel-ridge" or head.agreement):
        raise TrainingError(
            f"{dataset.root}: the bank of {name} can hold {MAX_RIDGE_BANK:,} photos; with these "
            f"{count:,} it would have {total:,}: add fewer, or train a model of your own"
        )


def _kept_options(base: GeolocationModel, options: FitOptions) -> FitOptions:
    """Return the options by which the heads of the base would be made again."""
    head, heads = bank_of(base), base.context_heads
    bank = replace(
        options.bank,
        vote=head.vote,
        field_scales=head.field_scales,
        gammas=(head.gamma,),
        ridges=(head.ridge,),
        readout_temperatures=(head.readout_temperature,),
        nested=False,
        repeats=1,
    )
    context = options.context
    if isinstance(heads, KernelContextHeads) and base.context_join is not None:
        share = head.shares[-1]
        bank = replace(
            bank, context_gammas=(heads.gamma,), context_ridges=(heads.ridge,), context_share=share
        )
        context = replace(context, join_width=base.context_join.width)
    return replace(
        options,
        extend=None,
        coordinate_head="bank",
        use_context=bool(base.features),
        features=base.features or options.features,
        bank=bank,
        context=context,
    )


class _Shares:
    """Makes one progress of those of several parts, in 1,000 steps."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress

    def part(self, start: float, end: float) -> Progress:
        def report(done: int, total: int) -> None:
            if self.progress:
                self.progress(round(1000 * (start + (end - start) * done / max(total, 1))), 1000)

        return report


@dataclass(frozen=True)
class Comparison:
    """Compares an extended bank with the base, and with a model of the added photos alone.

    Every photo is located by models that were fitted without it, on the same folds.
    """

    inputs: BankInputs
    """All photos: those of the base, then m that are added."""
    added: PhotoDataset
    """The m added photos."""
    raw: Tensor
    """(m, D) their embeddings."""
    is_new: NDArray[np.bool_]
    """(n,) which photos are added."""
    partitions: list[NDArray[np.int64]]
    """(n,) fold of each photo, for each repeat."""
    errors_km: NDArray[np.float64]
    """(repeats, n) errors of the extended model."""

    def measure(self, progress: Progress) -> dict[str, Any]:
        """Return `compared` of the errors: "on_added" and "on_base"."""
        on_added, on_base = self.errors(progress)
        groups = self.added.table["sequence"].fillna(self.added.table["id"].astype(str))
        return {"on_added": compared(on_added, groups.to_numpy()), "on_base": compared(on_base)}

    def errors(
        self, progress: Progress | None = None
    ) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
        """Return model -> errors in km, on the added photos (repeats, m) and on those of the base.

        On the added photos: "extended", "base_alone" and, if they are enough and not of one spot,
        "added_alone". On those of the base, in the first repeat: "extended" and "base_alone".
        """
        base = self.inputs.base
        assert base is not None
        folds = [partition[self.is_new] for partition in self.partitions]
        alone = all(map(can_be_held_out, folds))
        rounds, done = 1 + len(folds) * alone, 0
        repeats = len(folds)

        def ticking(part: int, total: int) -> None:
            if progress:
                progress(round(1000 * (done + part / total)), 1000 * rounds)

        located = errors_km(base.predict(self.raw), self.added.coordinates)
        models = {
            "extended": self.errors_km[:, self.is_new],
            "base_alone": np.tile(located, (repeats, 1)),
        }
        if alone:
            errors = []
            for fold_of in folds:
                errors.append(held_out_errors(self._alone(fold_of), fold_of, ticking))
                done += 1
            models["added_alone"] = np.stack(errors)
        old = np.flatnonzero(~self.is_new)
        first = self.partitions[0][old]
        known = {f: len(v) for f, v in base.vocabularies.items()}
        data = self.inputs.data.take(old)
        labels = {
            f: np.where(values < known[f], values, IGNORE_INDEX)
            for f, values in data.labels.items()
        }
        before = replace(
            self.inputs, data=replace(data, labels=labels), vocabularies=base.vocabularies
        )
        world = {
            "extended": self.errors_km[:1, old],
            "base_alone": held_out_errors(before, first, ticking)[None],
        }
        return models, world

    def _alone(self, fold_of: NDArray[np.int64]) -> BankInputs:
        """Return the inputs of a model of the added photos alone."""
        vocabularies: dict[str, Vocabulary] = {}
        options = self.inputs.options
        if options.use_context:
            least = int(np.bincount(fold_of).max()) + 1
            vocabularies, _ = learnable_vocabularies(self.added, options.features, least)
        data = BankData(self.raw, self.added.coordinates, self.added.labels(vocabularies))
        return replace(self.inputs, data=data, vocabularies=vocabularies, base=None)


def compared(
    errors: Mapping[str, NDArray[np.float64]], groups: NDArray[np.generic] | None = None
) -> dict[str, Any]:
    """Return GeoScore and median of models on the same n photos, with 95 % bootstrap intervals.

    Args:
        errors: model -> (repeats, n) errors in km; the first is compared with the others.
        groups: (n,) labels of photos that are drawn together.

    Returns:
        Model -> "geoscore", "interval" and "median_km"; the others also have "difference" and
        "difference_interval": how much higher the GeoScore of the first model is.
    """
    scores = [geoscore(values).mean(axis=0) for values in errors.values()]
    first = scores[0]
    columns = [*scores, *(first - other for other in scores)]
    bounds = mean_intervals(np.stack(columns, axis=1), groups=groups)
    found: dict[str, Any] = {}
    for index, (name, values) in enumerate(errors.items()):
        found[name] = {
            "geoscore": float(scores[index].mean()),
            "interval": _known(bounds[index]),
            "median_km": float(np.median(values)),
        }
        if index:
            found[name]["difference"] = float((first - scores[index]).mean())
            found[name]["difference_interval"] = _known(bounds[len(scores) + index])
    return found


def _known(bounds: tuple[float, float]) -> list[float] | None:
    return list(bounds) if np.isfinite(bounds).all() else None
