"""Options of `fit`, `pretrain` and `embed`: one tree for flags, recipes, config.yaml and the form.

The docstring below a field is its help text, on the command line and on the train page. pydantic
checks the values when an object is made, so that an error names its field. It is imported only
then: ``--help`` must answer at once.
"""

import ast
import dataclasses
import functools
import inspect
import itertools
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    dataclass_transform,
)

from annotated_types import Ge, Gt, Interval, MinLen

from geoclip_core.data import DEFAULT_FEATURES, KNOWN_FEATURES

if TYPE_CHECKING:  # for annotations alone
    from _typeshed import DataclassInstance
    from pydantic import GetCoreSchemaHandler, TypeAdapter, ValidationError
    from pydantic_core import CoreSchema

FEW_PHOTOS = 1000
"""With fewer training photos a bank is better: GeoScore 1,038 against 704 for geocells with 280
photos. On the demo set geocells have the smaller median error (`benchmark ablation`)."""
T = TypeVar("T")
_ADAPTERS: "dict[type[Any], TypeAdapter[Any]]" = {}
"""Options class -> what checks its values."""

RENAMED = {
    "fit": "framing",
    "train": "train_backbone",
    "cells": "geocells.cells",
    "smoothing": "geocells.smoothing",
    "offset_rank": "geocells.offset_rank",
    "vote": "bank.vote",
    "gammas": "bank.gammas",
    "ridges": "bank.ridges",
    "context_share": "bank.context_share",
    "folds": "bank.folds",
    "repeats": "bank.repeats",
    "all_rows": "bank.all_rows",
    "note": "bank.note",
    "context_weights": "context.weights",
    "context_hidden": "context.hidden",
    "class_balance": "context.class_balance",
    "join_width": "context.join_width",
}
"""Option of an earlier version -> its name now. config.yaml of older runs, and recipes that users
have written, are read with these."""


class OptionsError(ValueError):
    """Options that cannot be used.

    Args:
        problems: field ("epochs", "bank.folds") -> a sentence that names it and what is wrong.
        source: file or command that the options come from, for the message.
    """

    def __init__(self, problems: Mapping[str, str], source: str = "") -> None:
        self.problems = dict(problems)
        sentences = "; ".join(self.problems.values())
        super().__init__(f"{source}: {sentences}" if source else sentences)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def options_class(cls: type[T]) -> type[T]:
    """Make a frozen dataclass of options, for flags and forms.

    Values are checked when an object is made, by the types and by `__post_init__`; plain values
    are converted ("3" to 3, a dict to a group of options). Defaults are not checked.

    The class raises:
        OptionsError: values cannot be used; it names all of them.
    """
    cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    init = cls.__init__

    @functools.wraps(init)
    def checked_init(self: T, **values: object) -> None:
        if not values:
            init(self)
            return
        from pydantic import ValidationError  # here, since --help needs no check

        try:
            checked = _adapter(type(self)).validate_python(values)
        except ValidationError as error:
            raise OptionsError(_problems(error)) from error
        vars(self).update(vars(checked))

    # mypy: a method of a class is replaced on purpose
    cls.__init__ = checked_init  # type: ignore[method-assign, assignment]
    cls.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # type: ignore[attr-defined]
    return cls


def _adapter(cls: type[Any]) -> "TypeAdapter[Any]":
    if cls not in _ADAPTERS:
        from pydantic import TypeAdapter  # here, since --help needs no check

        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]


def _problems(error: "ValidationError") -> dict[str, str]:
    """Return field -> sentence for everything that pydantic found wrong with an options object."""
    found: dict[str, str] = {}
    for detail in error.errors():
        field = ".".join(part for part in detail["loc"] if isinstance(part, str))
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, OptionsError):
            found |= cause.problems
        elif cause is not None:
            found[field] = f"{field}: {cause}" if field else str(cause)
        elif detail["type"] == "unexpected_keyword_argument":
            found[field] = f"there is no option {field}"
        else:
            rule = detail["msg"].partition(", unable")[0].replace("Input should be", "must be")
            rule = rule.replace("greater than or equal to", "at least")
            rule = rule.replace("less than or equal to", "at most")
            found[field] = f"{field} {rule}, not {detail['input']!r}"
    return found


def from_mapping(cls: type[T], values: Mapping[str, Any], source: str) -> T:
    """Make options from plain values: a recipe, a run's config.yaml, a form.

    Args:
        cls: `FitOptions`, `PretrainOptions` or `EmbedOptions`.
        values: option -> value. Groups are nested ({"bank": {"folds": 5}}) or dotted
            ({"bank.folds": 5}), words joined by "_" or "-"; names of earlier versions are accepted.
        source: what to call the values in an error, usually a file name.

    Raises:
        OptionsError: an option does not exist, or values cannot be used; it names all of them.
    """
    try:
        return cls(**upgraded(values))
    except OptionsError as error:
        raise OptionsError(error.problems, source) from error


@functools.cache
def help_texts(cls: type) -> dict[str, str]:
    """Return field -> the docstring below it, for a class made with `options_class`."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            found |= _docstrings(base.__module__)[base.__name__]
    return found


@functools.cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """Return class -> field -> docstring for the top-level classes of a module."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(node, ast.ClassDef):
            texts = found.setdefault(node.name, {})
            for field, text in itertools.pairwise(node.body):
                match field, text:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(words))),
                    ):
                        texts[name] = " ".join(words.split())
    return found


def to_mapping(options: object) -> dict[str, Any]:
    """Return options as nested plain values for YAML and JSON; `from_mapping` reads them."""
    values: dict[str, Any] = _adapter(type(options)).dump_python(options, mode="json")
    return values


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values under the names of this version."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        old = str(key).replace("-", "_")
        if old == "train" and isinstance(value, str):
            value = value.removeprefix("backbone=")
        elif old == "coordinate_head" and value == "retrieval":
            value = "bank"
        elif old == "context_weights" and isinstance(value, Mapping):
            value = dict.fromkeys(KNOWN_FEATURES, 1.0) | dict(value)
        *groups, name = RENAMED.get(old, old).split(".")
        place = found
        for group in groups:
            place = place.setdefault(group, {})
        if isinstance(value, Mapping):
            place.setdefault(name, {}).update(_nested(value))
        else:
            place[name] = value
    return found


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(key).replace("-", "_"): _nested(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
    }


def new_flag(flag: str) -> str | None:
    """Return what a flag of an earlier version is called now; None if its name did not change.

    "--no-all-rows" is "--bank.no-all-rows" now.
    """
    name = flag.removeprefix("--").replace("-", "_")
    no = "" if name in RENAMED else "no_"
    new = RENAMED.get(name.removeprefix("no_") if no else name)
    if new is None:
        return None
    group, dot, field = new.rpartition(".")
    return "--" + f"{group}{dot}{no}{field}".replace("_", "-")


def view_sizes(views: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Return (height, width) of views that are written like 320x512, or 260 for a square.

    Raises:
        ValueError: a view cannot be read, or is too small or too large.
    """
    sizes = []
    for view in views:
        match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", view)
        if not match:
            raise ValueError(f"{view!r} is not of the form HEIGHTxWIDTH, like 260x260")
        height, width = int(match[1]), int(match[2] or match[1])
        if not all(32 <= side <= 2048 for side in (height, width)):
            raise ValueError(f"{view!r} must have sides of 32 to 2048 pixels")
        sizes.append((height, width))
    return tuple(sizes)


def _check_features(features: tuple[str, ...]) -> None:
    if unknown := [feature for feature in features if feature not in KNOWN_FEATURES]:
        raise ValueError(f"there is no {unknown[0]!r}; known are {', '.join(KNOWN_FEATURES)}")
    if len(set(features)) != len(features):
        raise ValueError(f"one occurs twice in {', '.join(features)}")


@dataclasses.dataclass(frozen=True)
class Listed:
    """Accept "a, b" for a list, as people write it in YAML and in a form; check the list."""

    check: Callable[[tuple[str, ...]], object] | None = None

    def __get_pydantic_core_schema__(
        self, source: object, handler: "GetCoreSchemaHandler"
    ) -> "CoreSchema":
        """Describe the list to pydantic."""
        from pydantic_core.core_schema import (
            no_info_after_validator_function,
            no_info_before_validator_function,
        )

        schema = no_info_before_validator_function(self._split, handler(source))
        return no_info_after_validator_function(self._checked, schema)

    @staticmethod
    def _split(value: object) -> object:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    def _checked(self, value: tuple[str, ...]) -> tuple[str, ...]:
        if self.check:
            self.check(value)
        return value


NonNegativeInt = Annotated[int, Ge(0)]
AtLeastOne = Annotated[int, Ge(1)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Views = Annotated[tuple[str, ...], Listed(view_sizes)]
Features = Annotated[tuple[str, ...], Listed(_check_features)]
Depths = Annotated[tuple[NonNegativeInt, ...], Listed()]
Candidates = Annotated[tuple[PositiveFloat, ...], Listed(), MinLen(1)]
LearningRate = Annotated[float, Interval(gt=0, lt=1)]
Share = Annotated[float, Interval(ge=0, lt=1)]


@options_class
class PhotoOptions:
    """Which photos, and the backbone that turns them into embeddings."""

    data: Path | None = None
    """dataset folder (OSV-Mini-129k, a demo set, imported photos)"""
    backbone: str = "efficientnet-lite2"
    """efficientnet-lite2 (bundled), a hub id such as openai/clip-vit-base-patch32, the folder of a
    transformers model, or the run folder of a pretraining"""
    views: Views = ()
    """HEIGHTxWIDTH of each view of a photo, such as 260x260; none: the backbone's own size"""
    framing: Literal["squash", "crop"] = "squash"
    """squash the whole frame into a view, or crop its centre to the view's shape"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """where to compute; auto takes a GPU if there is one"""
    workers: AtLeastOne = 2
    """threads that read photos"""
    cache_dir: Path | None = None
    """where embeddings are kept between runs; by default the platform's cache folder"""

    def __post_init__(self) -> None:
        """Check options that depend on each other; a class adds its own to those of its bases."""

    def dataset_folder(self) -> Path:
        """Return the dataset folder.

        Raises:
            OptionsError: `data` is not set.
        """
        if self.data is None:
            raise OptionsError({"data": "data must be given: the folder of a dataset"})
        return self.data

    @property
    def view_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each view."""
        return view_sizes(self.views)

    def backbone_changes(self) -> dict[str, Any]:
        """Return the fields of `BackboneConfig` in which the backbone differs from its default."""
        changes: dict[str, Any] = {}
        if self.views:
            changes["views"] = self.view_sizes
        if self.framing != "squash":
            changes["framing"] = self.framing
        return changes


@options_class
class EmbeddingOptions(PhotoOptions):
    """Which features of the backbone make the embedding."""

    depths: Depths = ()
    """inner blocks of the backbone whose pooled features join those of its end, such as 7 14 20"""
    depth_pooling: Literal["mean", "mean-std"] = "mean-std"
    """what is kept of an inner block: its mean, or mean and standard deviation"""
    projection: bool = False
    """use the projected embedding of a CLIP tower or of a pretrained backbone"""

    def backbone_changes(self) -> dict[str, Any]:
        """Return the fields of `BackboneConfig` in which the backbone differs from its default."""
        changes = super().backbone_changes()
        changes |= {"depths": self.depths, "depth_pooling": self.depth_pooling}
        if self.projection:
            changes["projection"] = True
        return changes

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.projection and self.backbone.startswith("efficientnet-lite"):
            raise OptionsError(
                {"projection": f"projection: {self.backbone} has none; CLIP towers do"}
            )


@options_class
class EmbedOptions(EmbeddingOptions):
    """Options of `embed`; those that `fit` has too mean the same, so that it finds the cache."""

    COMMAND: ClassVar[str] = "embed"

    engine: Literal["auto", "torch", "onnx"] = "auto"
    """what runs the network; auto takes ONNX Runtime on a CPU where it agrees with torch"""
    batch_size: AtLeastOne = 32
    """photos that go through the network together"""
    bulk: bool = False
    """share the photos among worker processes of Ray, on this computer or on the cluster that the
    environment variable RAY_ADDRESS names, whose computers must see the photos at the same paths;
    needs the package ray[data]"""
    processes: Annotated[int, Ge(0)] = 0
    """with bulk: worker processes, each with a network of its own and `workers` threads that read
    photos; 0: one for each GPU, or CPU"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.processes and not self.bulk:
            raise OptionsError({"processes": "processes is an option of bulk"})
        if self.bulk and self.device == "mps":
            raise OptionsError({"device": "device must be auto, cpu or cuda with bulk"})


@options_class
class TrainingOptions(PhotoOptions):
    """What `fit` and `pretrain` have in common."""

    COMMAND: ClassVar[str]

    recipe: str | None = None
    """recipe of train/recipes by name, or the path of a YAML file; flags override it"""
    output: Path | None = None
    """folder of the run; by default a new one in the runs folder, named by time and recipe"""
    runs: Path = Path("runs")
    """folder in which runs are kept"""
    resume: Path | None = None
    """run folder to continue from its last saved step, with its own options"""
    train_backbone: Literal["none", "last-block", "all"] = "none"
    """which part of the backbone is trained; BatchNorm statistics never change"""
    features: Features = DEFAULT_FEATURES
    """context features (climate, month, country, state, county, city): what the heads of fit learn
    and what the captions of pretrain mention; those without labels are left out"""
    augment: NonNegativeFloat = 1.0
    """strength of random crops, colours and JPEG noise (0: none) where the backbone is trained;
    photos are never flipped"""
    epochs: AtLeastOne = 40
    """passes over the training photos"""
    batch_size: AtLeastOne = 128
    """photos of one optimizer step, over all processes and accumulation parts"""
    accumulation: AtLeastOne = 1
    """parts into which a step is cut to save memory"""
    learning_rate: LearningRate = 2e-3
    """highest learning rate of everything but the backbone"""
    backbone_learning_rate: LearningRate = 2e-5
    """highest learning rate of the backbone's trained part"""
    weight_decay: NonNegativeFloat = 0.05
    """decoupled weight decay of weight matrices (AdamW)"""
    warmup: Share = 0.05
    """share of all steps in which the learning rate rises; then it falls to zero along a cosine"""
    clip_norm: NonNegativeFloat = 1.0
    """largest norm of the gradient; 0: no limit"""
    patience: NonNegativeInt = 10
    """epochs without a better validation after which training ends; 0: never"""
    val_fraction: Annotated[float, Interval(gt=0, le=0.5)] = 0.1
    """share of the training photos that is cut out by spatial blocks for validation: the best step
    is chosen and the model calibrated on it"""
    seed: NonNegativeInt = 0
    """seed of splits, weights, order and augmentation"""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """mixed precision; auto takes bf16 on a GPU that has it, else full precision"""
    log_every: AtLeastOne = 10
    """steps between two lines of metrics.jsonl"""
    save_seconds: NonNegativeFloat = 60.0
    """how often the state is saved inside an epoch; it is also saved after every validation"""
    license: str = ""
    """licence of the photos, which goes into the model card (CC BY-SA 4.0, ...)"""

    @property
    def frozen(self) -> bool:
        """Whether no part of the backbone is trained."""
        return self.train_backbone == "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume is not None:
            others = [f for f in _changed(self) if f not in ("resume", "device", "runs")]
            if others:
                raise OptionsError(
                    {f: f"resume uses the options of the run: leave out {f}" for f in others}
                )
        if self.accumulation > self.batch_size:
            raise OptionsError(
                {
                    "accumulation": f"accumulation {self.accumulation} cuts a step of batch_size "
                    f"{self.batch_size} into parts of less than one photo"
                }
            )
        if self.device == "cpu" and self.precision == "fp16":
            raise OptionsError({"precision": "precision fp16 needs a GPU: take bf16 or no"})


@options_class
class GeocellOptions:
    """The coordinate head "geocells"."""

    cells: NonNegativeInt = 0
    """most geocells; 0: one per 15 training photos, up to 1,000"""
    smoothing: NonNegativeFloat = 0.5
    """decay of the cells' smoothed targets, in typical distances of neighbouring cells; 0: none"""
    offset_rank: NonNegativeInt = 32
    """width of the offset network; 0: answers are the centres of cells"""


@options_class
class BankOptions:
    """The coordinate head "bank"; of several candidates, each fold chooses by left-out score."""

    vote: Literal["cosine", "kernel-ridge"] = "kernel-ridge"
    """how the photos of the bank vote; kernel-ridge is for up to 5,000 photos"""
    field_scales: Candidates = (1492.7, 4000.0)
    """kilometres over which the targets of kernel-ridge fall off; GeoScore has the first"""
    gammas: Candidates = (1.5,)
    """candidates for the kernel width γ in exp(γ (cosine − 1))"""
    ridges: Candidates = (0.05,)
    """candidates for the ridge of kernel-ridge"""
    readout_temperatures: Candidates = (0.03,)
    """candidates for the temperature at which the answer is read from the field of scores"""
    context_gammas: Candidates = (1.0,)
    """candidates for the kernel width of the context heads"""
    context_ridges: Candidates = (0.1,)
    """candidates for the ridge of the context heads"""
    context_share: Share = 0.02
    """share of the context in the similarity of photos"""
    folds: Annotated[int, Ge(2)] = 10
    """folds of the cross-validation that measures and calibrates the model"""
    repeats: AtLeastOne = 3
    """how often the cross-validation is repeated with other folds"""
    nested: bool = False
    """also measure how good it is if every fold chooses kernel and ridge for itself, which is the
    honest number where they were chosen on these photos"""
    all_rows: bool = False
    """learn from the photos of every split; the numbers are cross-validated"""
    note: str = ""
    """what a reader of the model card has to know about its numbers"""


@options_class
class FeatureWeights:
    """Weight of each context feature's loss; large vocabularies need a low one."""

    climate: NonNegativeFloat = 1.0
    """weight of the climate loss"""
    month: NonNegativeFloat = 1.0
    """weight of the month loss"""
    country: NonNegativeFloat = 1.0
    """weight of the country loss"""
    state: NonNegativeFloat = 1.0
    """weight of the state loss"""
    county: NonNegativeFloat = 0.5
    """weight of the county loss"""
    city: NonNegativeFloat = 0.25
    """weight of the city loss"""

    def of(self, feature: str) -> float:
        """Return the weight of a feature by its name."""
        weight: float = getattr(self, feature)
        return weight


@options_class
class ContextOptions:
    """Context heads, and how their logits reach the coordinate head."""

    weights: FeatureWeights = FeatureWeights()
    """weight of each feature's loss"""
    class_balance: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """how much rare classes are favoured in the losses: 0 not at all, 1 fully"""
    hidden: NonNegativeInt = 0
    """width of a hidden layer that all context heads share; 0: none"""
    join_width: AtLeastOne = 16
    """numbers to which each feature's logits are projected for the coordinate head"""


_EXTENDING = (
    *("extend", "data", "device", "workers", "cache_dir", "recipe", "output", "runs"),
    *("val_fraction", "seed", "license"),
)
"""Options of `fit` that mean something when a model is extended."""
_EXTENDING_BANK = ("folds", "all_rows", "note")
"""The same of `BankOptions`."""


@options_class
class FitOptions(TrainingOptions, EmbeddingOptions):
    """Options of `fit`: context heads and a coordinate head on a backbone."""

    COMMAND: ClassVar[str] = "fit"

    extend: str | None = None
    """model with a bank (a bundled name, a run or a checkpoint folder) to whose bank the photos are
    added; backbone, heads and their options are those of that model"""
    coordinate_head: Literal["auto", "geocells", "regression", "bank"] = "auto"
    """geocells: cells and an offset; regression: a point; bank: the training photos vote, best for
    hundreds of photos, possible for a few thousand; auto: a bank for fewer than 1,000 photos, else
    geocells"""
    coordinate_weight: PositiveFloat = 1.0
    """weight of the coordinate head's loss"""
    use_context: bool = True
    """train context heads, whose logits join the embedding at the coordinate head"""
    hidden: NonNegativeInt = 0
    """width of a hidden layer in the coordinate head; 0: none"""
    dropout: Share = 0.3
    """share of the heads' inputs that is dropped in training"""
    geocells: GeocellOptions = GeocellOptions()
    """the coordinate head geocells"""
    bank: BankOptions = BankOptions()
    """the coordinate head bank"""
    context: ContextOptions = ContextOptions()
    """the context heads"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.extend is not None and self.resume is None:
            others = [f for f in _changed(self) if f not in (*_EXTENDING, "bank")]
            others += [f"bank.{f}" for f in _changed(self.bank) if f not in _EXTENDING_BANK]
            if others:
                raise OptionsError(
                    {
                        f: f"extend uses the backbone and the heads of the model: leave out {f}"
                        for f in others
                    }
                )
            return
        if self.use_context and not self.features:
            raise OptionsError(
                {"features": "features: name some, or turn use_context off (--no-use-context)"}
            )
        given = {"geocells": _changed(self.geocells), "bank": _changed(self.bank)}
        if self.coordinate_head == "auto":
            if all(given.values()):
                names = [f"{head}.{name}" for head, fields in given.items() for name in fields]
                raise OptionsError(
                    {name: f"{name}: set coordinate_head geocells or bank" for name in names}
                )
            given = {}
        for head, others in given.items():
            if self.coordinate_head != head and others:
                raise OptionsError(
                    {
                        f"{head}.{name}": f"{head}.{name} belongs to coordinate_head {head}, not "
                        f"to {self.coordinate_head}"
                        for name in others
                    }
                )
        if self.coordinate_head == "bank" and not self.frozen:
            raise OptionsError(
                {
                    "train_backbone": "train_backbone must be none with coordinate_head bank: "
                    "a bank keeps embeddings of the backbone as it is"
                }
            )

    def head_for(self, photos: int) -> Literal["geocells", "regression", "bank"]:
        """Return the coordinate head for so many training and validation photos.

        With "auto" it is a bank for few photos, unless other options tell that cells are meant.
        """
        if self.coordinate_head != "auto":
            return self.coordinate_head
        if _changed(self.bank):
            return "bank"
        if _changed(self.geocells) or not self.frozen or photos >= FEW_PHOTOS:
            return "geocells"
        return "bank"


@options_class
class PretrainOptions(TrainingOptions):
    """Options of `pretrain`: contrastive alignment of photos and captions."""

    COMMAND: ClassVar[str] = "pretrain"

    train_backbone: Literal["none", "last-block", "all"] = "last-block"
    """which part of the image tower is trained; with none only its projection and the text"""
    train_text: bool = True
    """train the text tower; a small one that is made on the spot always is"""
    text: str = "small"
    """text tower of a backbone that has none: small (made on the spot, nothing to download), or
    the hub id or folder of a text model; a CLIP checkpoint keeps its own"""
    width: Annotated[int, Ge(2)] = 256
    """dimensions that photos and captions share; a CLIP checkpoint keeps its own"""
    drop_probability: Share = 0.3
    """how likely each part of a caption is left out in training"""
    batch_size: Annotated[int, Ge(2)] = 128
    """photos of one optimizer step, over all processes: a photo's caption among those of the
    others"""
    epochs: AtLeastOne = 10
    """passes over the training photos"""
    learning_rate: LearningRate = 1e-3
    """highest learning rate of projections and of a text tower that is made on the spot"""
    backbone_learning_rate: LearningRate = 1e-4
    """highest learning rate of what was pretrained before"""
    patience: NonNegativeInt = 0
    """epochs without a better validation loss after which training ends; 0: never"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accumulation != 1:
            raise OptionsError(
                {
                    "accumulation": "accumulation must be 1: parts of a step would not see each "
                    "other's captions; take a smaller batch_size or smaller views"
                }
            )
        if not self.features:
            raise OptionsError({"features": "features: captions must mention at least one"})


def _changed(options: "DataclassInstance") -> list[str]:
    """Return the fields of an options object that differ from their defaults."""
    defaults = type(options)()
    names = [field.name for field in dataclasses.fields(options)]
    return [name for name in names if getattr(options, name) != getattr(defaults, name)]
