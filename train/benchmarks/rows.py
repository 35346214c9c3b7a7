"""The rows of `benchmark all`: each measures this project beside what would be used instead.

A row is measured in a process of its own. Times are CPU times unless a row says otherwise, since
they hardly depend on what else the machine does.
"""

import io
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from train.benchmarks.measure import (
    FULL_ROWS,
    Cost,
    alternated,
    measured,
    peak_mb,
    ratios,
    run_measured,
)

if TYPE_CHECKING:  # imports torch; `geoclip --help` and others are measured without it
    from geoclip_core.model.backbone import Backbone

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
PHOTO, LARGE_PHOTO = (1600, 1067), (4000, 3000)
"""Width and height of the photos, and of those with 12 megapixels."""
Sizes = dict[tuple[int, int], Path]


@dataclass(frozen=True)
class Bar:
    """A limit of one of the measures of a row."""

    measure: str
    kind: Literal["at most", "at least"]
    limit: float

    def met(self, values: dict[str, float]) -> bool | None:
        """Return whether the value of the measure is within the limit; None: not measured."""
        if self.measure not in values:
            return None
        value = values[self.measure]
        return value <= self.limit if self.kind == "at most" else value >= self.limit


@dataclass(frozen=True)
class Row:
    """One comparison.

    The measures are ``ours`` and ``theirs`` (medians, in `unit`), ``ratio`` with ``ratio_lowest``
    and ``ratio_highest`` (of the rounds), ``peak_mb``, and others that the row names.
    """

    name: str
    ours: str
    """What was measured of this project."""
    theirs: str
    """What it is compared with."""
    unit: str
    values: dict[str, float] = field(default_factory=dict)
    bars: tuple[Bar, ...] = ()
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether all bars are met; None: one was not measured, or there is none."""
        found = [bar.met(self.values) for bar in self.bars]
        if False in found:
            return False
        return None if None in found or not found else True

    def to_json(self) -> dict[str, Any]:
        """Return the row with its verdict, for a JSON file."""
        return {**asdict(self), "met": self.met}


def at_most(**limits: float) -> tuple[Bar, ...]:
    """Return upper limits of measures."""
    return tuple(Bar(measure, "at most", limit) for measure, limit in limits.items())


def at_least(**limits: float) -> tuple[Bar, ...]:
    """Return lower limits of measures."""
    return tuple(Bar(measure, "at least", limit) for measure, limit in limits.items())


def one_photo(quick: bool) -> list[Row]:
    """A warm photo, from bytes to prediction, on one thread; and its explanation."""
    from geoclip_core.locator import Geolocator
    from geoclip_core.training.embeddings import network_files

    content, locator = jpeg(PHOTO), Geolocator.load("mini")
    if not locator.accelerate():
        raise ValueError("ONNX Runtime cannot run the model")
    bare = Bare(network_files(locator.backbone), locator.backbone, threads=1)
    sides = {"ours": lambda: locator.locate(content), "theirs": lambda: bare.embed([content])}
    costs = alternated(sides, 3 if quick else 15)
    values = milliseconds(costs, 1)
    explained = alternated(
        {"ours": lambda: locator.explain(content), "theirs": sides["ours"]}, 1 if quick else 3
    )
    return [
        Row(
            "one photo, warm",
            "bytes → Prediction with mini",
            "Pillow and bare ONNX Runtime: bytes → features",
            "CPU ms, one thread",
            {**values, "peak_mb": peak_mb()},
            at_most(ratio=1.15),
        ),
        Row(
            "explanation",
            "Geolocator.explain with mini",
            "locating the photo once",
            "CPU s, one thread",
            ratios(*(cpu(explained[side]) for side in ("ours", "theirs"))),
            at_most(ours=3.0),
        ),
    ]


def ready(quick: bool) -> list[Row]:
    """Readying ONNX Runtime in a new process, once the network has been exported."""
    from geoclip_core.locator import Geolocator
    from geoclip_core.training.embeddings import network_files

    first = Geolocator.load("mini")
    first.accelerate()
    files = network_files(first.backbone)
    rounds = 2 if quick else 5
    costs = alternated(
        {
            "ours": lambda: Geolocator(first.model, first.name).accelerate(),
            "theirs": lambda: Bare(files, first.backbone, threads=1),
        },
        rounds,
    )
    with tempfile.TemporaryDirectory(prefix="ready-") as scratch:
        code = (
            "from geoclip_core.locator import Geolocator; "
            "locator = Geolocator.load('mini'); locator.accelerate(); "
        )
        with_engine = run_measured(["-c", code], Path(scratch), ONE_THREAD)
        alone = run_measured(["-c", code.rpartition("locator.acc")[0]], Path(scratch), ONE_THREAD)
    return [
        Row(
            "readying ONNX Runtime",
            "Geolocator.accelerate with a kept network",
            "onnxruntime.InferenceSession of the same files",
            "CPU s, one thread",
            {
                **ratios(*(cpu(costs[side]) for side in ("ours", "theirs"))),
                "added_mb": with_engine.peak_mb - alone.peak_mb,
                "peak_mb": with_engine.peak_mb,
            },
            at_most(ours=0.3, added_mb=100),
        )
    ]


def cold(quick: bool) -> list[Row]:
    """One photo in a new process, and the help text."""
    from geoclip_core.locator import Geolocator
    from geoclip_core.training.embeddings import network_files

    locator = Geolocator.load("mini")
    locator.accelerate()
    files = network_files(locator.backbone)
    rounds = 2 if quick else 7
    with tempfile.TemporaryDirectory(prefix="cold-") as scratch:
        folder = Path(scratch)
        (folder / "photo.jpg").write_bytes(jpeg(PHOTO))
        sizes = {f"{h}x{w}": (h, w, str(path)) for (h, w), path in files.items()}
        bare = (
            "import numpy as np, onnxruntime as ort\n"
            "from PIL import Image\n"
            "o = ort.SessionOptions(); o.intra_op_num_threads = 1\n"
            "image = Image.open('photo.jpg').convert('RGB')\n"
            f"for h, w, path in {list(sizes.values())!r}:\n"
            "    x = np.asarray(image.resize((w, h)), np.float32).transpose(2, 0, 1)[None] / 255\n"
            "    ort.InferenceSession(path, o).run(None, {'pixels': x})\n"
        )
        commands = {
            "locate": ["-m", "geoclip_core", "locate", "photo.jpg"],
            "bare": ["-c", bare],
            "help": ["-m", "geoclip_core", "--help"],
            "python": ["-c", "pass"],
        }
        costs: dict[str, list[Cost]] = {name: [] for name in commands}
        for number in range(rounds + 1):
            for name, command in commands.items():
                cost = run_measured(command, folder, ONE_THREAD)
                if number:
                    costs[name].append(cost)
    return [
        Row(
            "geoclip locate PHOTO, cold",
            "geoclip locate photo.jpg in a new process",
            "a script of Pillow and bare ONNX Runtime in a new process",
            "CPU s, one thread",
            {
                **ratios(cpu(costs["locate"]), cpu(costs["bare"])),
                "peak_mb": float(np.median([cost.peak_mb for cost in costs["locate"]])),
            },
            at_most(ours=2.0),
        ),
        Row(
            "geoclip --help",
            "geoclip --help",
            "python -c pass",
            "CPU s",
            {
                **ratios(cpu(costs["help"]), cpu(costs["python"])),
                "peak_mb": float(np.median([cost.peak_mb for cost in costs["help"]])),
            },
            at_most(ours=0.1),
        ),
    ]


def many(quick: bool) -> list[Row]:
    """Many photos, a quarter of them with 12 megapixels, and the most memory that they take."""
    from geoclip_core.locator import Geolocator
    from geoclip_core.training.embeddings import network_files

    locator = Geolocator.load("mini")
    if not locator.accelerate():
        raise ValueError("ONNX Runtime cannot run the model")
    count = 16 if quick else 96
    with tempfile.TemporaryDirectory(prefix="many-") as scratch:
        folder = Path(scratch)
        paths = []
        for number in range(count):
            path = folder / f"{number:04d}.jpg"
            path.write_bytes(jpeg(LARGE_PHOTO if number % 4 == 3 else PHOTO, seed=number % 8))
            paths.append(path)
        bare = Bare(network_files(locator.backbone), locator.backbone)

        def theirs() -> None:
            for start in range(0, count, 8):
                bare.embed([path.read_bytes() for path in paths[start : start + 8]])

        costs = alternated(
            {"ours": lambda: list(locator.locate_many(paths, batch_size=8)), "theirs": theirs},
            2 if quick else 5,
        )
        alone = run_measured(
            [
                "-c",
                "import sys\nfrom pathlib import Path\n"
                "from geoclip_core.locator import Geolocator\n"
                "locator = Geolocator.load('mini'); locator.accelerate()\n"
                "photos = sorted(Path('.').glob('*.jpg')) * 2\n"
                "assert len(list(locator.locate_many(photos, batch_size=8))) == len(photos)",
            ],
            folder,
        )
    wall = {side: [cost.seconds / count * 1000 for cost in found] for side, found in costs.items()}
    return [
        Row(
            "many photos",
            "Geolocator.locate_many with mini, batches of 8",
            "Pillow and bare ONNX Runtime, batches of 8, all cores, in turns",
            "wall ms a photo",
            {
                **ratios(wall["ours"], wall["theirs"]),
                "cpu_ratio": ratios(cpu(costs["ours"]), cpu(costs["theirs"]))["ratio"],
                "peak_mb": alone.peak_mb,
            },
            at_most(ratio=1 / 0.9, peak_mb=1000),
            "a ratio of 1.11 is 0.9 of the throughput; peak memory is that of our side alone",
        )
    ]


def trained(quick: bool) -> list[Row]:
    """Heads on cached embeddings, calibration after them, and one evaluated photo."""
    from train.benchmarks.speed import HeadsOptions, benchmark_heads

    rows, epochs = (2000, 2) if quick else (FULL_ROWS, 10)
    found = benchmark_heads(HeadsOptions(rows=rows, epochs=epochs, evaluated=32 if quick else 500))
    plain = measured(lambda: plain_heads(found.trained_on, found.width, found.classes, epochs))
    whole = " at 119,008 rows and 10 epochs" if quick else ""
    bars = at_most(seconds=60, peak_mb=2000)
    waived = "fewer rows and epochs than the bar is for" if quick else ""
    return [
        Row(
            f"heads, {epochs} epochs, {rows:,} rows",
            f"fit on cached embeddings of width {found.width:,}",
            "one linear layer a task, AdamW, cross entropy, batches in memory",
            "CPU s",
            {
                **ratios([found.training.cpu_seconds], [plain.cpu_seconds]),
                **({} if quick else {"seconds": found.training.seconds}),
                "peak_mb": found.peak_mb,
            },
            bars,
            waived,
        ),
        Row(
            f"calibration after heads, {rows:,} rows",
            "calibrate on at most 1,500 photos of val",
            f"the training before it{whole}",
            "CPU s",
            {
                **ratios([found.calibration.cpu_seconds], [found.training.cpu_seconds]),
                **({} if quick else {"seconds": found.calibration.seconds}),
                "peak_mb": found.peak_mb,
            },
            at_most(seconds=60),
            waived,
        ),
        Row(
            "one evaluated photo",
            "heads, posterior and row of the predictions table",
            "the heads alone",
            "CPU ms",
            ratios([1000 * found.prediction.cpu_seconds], [1000 * found.heads_alone.cpu_seconds]),
            at_most(ours=1.0),
        ),
    ]


def plain_heads(rows: int, width: int, classes: dict[str, int], epochs: int) -> None:
    """Train one linear layer a task on random embeddings, as in a tutorial."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(0)
    known = torch.randn(rows, width, generator=generator)
    layers = nn.ModuleList(nn.Linear(width, count) for count in classes.values())
    labels = [torch.randint(count, (rows,), generator=generator) for count in classes.values()]
    optimizer = torch.optim.AdamW(layers.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(rows, generator=generator).split(512):
            optimizer.zero_grad()
            views = known[batch]
            losses = [
                nn.functional.cross_entropy(layer(views), label[batch])
                for layer, label in zip(layers, labels, strict=True)
            ]
            torch.stack(losses).sum().backward()
            optimizer.step()


def geoclip_query(quick: bool) -> list[Row]:
    """A query of GeoCLIP without the image tower, whose weights are not needed for its time."""
    import torch
    from torch.nn.functional import normalize

    from geoclip_core.geoclip.gallery import LocationEncoder, encode_gallery

    count = 20_000 if quick else 100_000
    torch.manual_seed(0)
    encoder = LocationEncoder().eval()
    coordinates = np.random.default_rng(0).uniform((-60, -180), (75, 180), (count, 2))
    places = torch.from_numpy(coordinates).float()
    query = normalize(torch.randn(1, encoder.width), dim=1)
    gallery = encode_gallery(encoder, coordinates)

    def theirs() -> None:
        with torch.no_grad():
            (query @ normalize(encoder(places), dim=1).T).softmax(dim=1).topk(5)

    sides = {"ours": lambda: gallery.top_k(query, 5), "theirs": theirs}
    costs = alternated(sides, 1 if quick else 3)
    return [
        Row(
            f"GeoCLIP query without the tower, {count:,} places",
            "product with the kept gallery, exact ranking",
            "the published package's way: all places are encoded for each photo",
            "CPU ms",
            {**milliseconds(costs, 1), "peak_mb": peak_mb()},
            () if quick else at_most(ratio=1 / 100),  # fewer places make the other side cheaper
            "random weights of the published shape; `benchmark gallery` compares the results",
        )
    ]


def nearest(quick: bool) -> list[Row]:
    """The nearest of many embeddings, and the share of the true nearest ten that are found."""
    return [_nearest(rows) for rows in ((FULL_ROWS,) if quick else (FULL_ROWS, 1_000_000))]


def _nearest(count: int) -> Row:
    from geoclip_core.earth.sphere import unit_vectors
    from geoclip_core.similar import DirectionIndex
    from train.benchmarks.speed import Mixture

    width, queries = 512, 8
    rng = np.random.default_rng(0)
    mixture = Mixture(rng, width)
    with tempfile.TemporaryDirectory(prefix="nearest-") as scratch:
        folder = Path(scratch)
        stored = np.lib.format.open_memmap(folder / "all.npy", "w+", np.float16, (count, width))
        places = np.stack([rng.uniform(-60, 75, count), rng.uniform(-180, 180, count)], axis=1)
        for start in range(0, count, 8192):
            part = mixture.of(unit_vectors(places[start : start + 8192]))
            part += rng.standard_normal(part.shape, dtype=np.float32)
            stored[start : start + 8192] = part / np.linalg.norm(part, axis=1, keepdims=True)
        asked = mixture.of(unit_vectors(places[:queries]))
        asked += rng.standard_normal(asked.shape, dtype=np.float32)
        asked /= np.linalg.norm(asked, axis=1, keepdims=True)

        def read(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            return stored[rows].astype(np.float32)

        index = DirectionIndex(read, count, width, folder / "index")
        whole = np.empty((count, width), dtype=np.float32)
        for start in range(0, count, 8192):
            whole[start : start + 8192] = stored[start : start + 8192]

        def theirs(query: NDArray[np.float32]) -> NDArray[np.int64]:
            cosines = whole @ query
            best = np.argpartition(-cosines, 10)[:10]
            found: NDArray[np.int64] = best[np.argsort(-cosines[best])]
            return found

        found = [len({*index.nearest(q, 10)[0]} & {*theirs(q)}) / 10 for q in asked]
        costs = alternated(
            {
                "ours": lambda: [index.nearest(query, 10) for query in asked],
                "theirs": lambda: [theirs(query) for query in asked],
            },
            5,
        )
    milli = {side: [1000 * c.seconds / queries for c in each] for side, each in costs.items()}
    return Row(
        f"nearest 10 of {count:,} embeddings",
        "similar.DirectionIndex: a projection, then the true cosines of 1,024",
        "numpy: product with all as float32 in memory, argpartition",
        "wall ms",
        {**ratios(milli["ours"], milli["theirs"]), "recall_at_10": float(np.mean(found))},
        (*at_most(ratio=1.0, ours=20), *at_least(recall_at_10=0.95)),
        f"generated embeddings of width {width}",
    )


def embedding(quick: bool) -> list[Row]:
    """The first pass of photos through a backbone, against one photo after another in torch."""
    from geoclip_core.errors import BackboneError
    from geoclip_core.model.backbones import backbone_config, build_backbone

    count = 8 if quick else 64
    photos = [jpeg(PHOTO, seed) for seed in range(min(count, 8))] * (-(-count // 8))
    bundled = backbone_config("efficientnet-lite2", views=((380, 380), (320, 512)))
    rows = [_embedding("efficientnet-lite2", build_backbone(bundled), photos[:count])]
    name, note = "openai/clip-vit-base-patch32", ""
    with tempfile.TemporaryDirectory(prefix="clip-") as scratch:
        try:
            clip = build_backbone(name, local=True)
        except BackboneError:
            note = f"{name} is not on this computer: random weights of the same shape"
            clip = build_backbone(random_clip(Path(scratch)))
        rows.append(replace(_embedding("CLIP ViT-B/32", clip, photos[:count]), note=note))
    return rows


def random_clip(folder: Path) -> str:
    """Write a CLIP ViT-B/32 image tower with random weights and return its folder."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig()).save_pretrained(folder)  # the default is ViT-B/32
    return str(folder)


def _embedding(name: str, backbone: "Backbone", photos: Sequence[bytes]) -> Row:
    import torch
    from PIL import Image

    from geoclip_core.training.embeddings import chosen_engine, embed_images

    engine = chosen_engine(backbone)
    with tempfile.TemporaryDirectory(prefix="embed-") as scratch:
        paths = []
        for number, content in enumerate(photos):
            paths.append(Path(scratch) / f"{number}.jpg")
            paths[-1].write_bytes(content)

        def theirs() -> None:
            for start in range(0, len(paths), 32):
                views = []
                for path in paths[start : start + 32]:
                    with Image.open(path) as image:
                        views.append(backbone.preprocessing.pixels(image.convert("RGB")))
                with torch.inference_mode():
                    for view in zip(*views, strict=True):
                        backbone.features(torch.stack(view))

        costs = alternated(
            {"ours": lambda: embed_images(backbone, paths, 32, engine=engine), "theirs": theirs}, 2
        )
    return Row(
        f"first embedding pass, {name}",
        f"embed_images with {'torch' if engine is None else 'ONNX Runtime'}",
        "per photo Pillow, then eager float32 in batches of 32, one worker",
        "CPU ms a photo",
        {**milliseconds(costs, len(photos)), "peak_mb": peak_mb()},
        at_most(ratio=1 / 3),
    )


def tables(quick: bool) -> list[Row]:
    """Reading and splitting a dataset's tables."""
    from train.benchmarks.rehearsal import benchmark_tables

    count = 16_000 if quick else FULL_ROWS
    found = [benchmark_tables(rows=count) for _ in range(2 if quick else 3)]
    alone = [one.seconds["pandas alone"] for one in found]
    split = [one.seconds["read and split"] for one in found]
    return [
        Row(
            f"read and split {count:,} rows",
            "read_dataset",
            "pandas.read_csv",
            "CPU s",
            {**ratios(split, alone), "peak_mb": peak_mb()},
            at_most(ratio=5.0),
        )
    ]


def growth(quick: bool) -> list[Row]:
    """How the cost of each step grows with the number of photos."""
    from geoclip_core.data.doctor import examine
    from geoclip_core.demo.dataset import write_demo
    from train.benchmarks.rehearsal import benchmark_tables
    from train.benchmarks.speed import HeadsOptions, benchmark_heads

    small, large = 1000, 16_000 if quick else FULL_ROWS
    seconds: dict[str, list[float]] = {}
    for count in (small, large):
        table = benchmark_tables(rows=count)
        seconds.setdefault("read", []).append(table.seconds["read"])
        seconds.setdefault("labels", []).append(table.seconds["vocabularies and labels"])
        with tempfile.TemporaryDirectory(prefix="growth-") as scratch:
            root = write_demo(Path(scratch) / "demo", count, metadata_only=True)
            checked = measured(partial(examine, root, photos=False))
        seconds.setdefault("doctor", []).append(checked.cpu_seconds)
        seconds.setdefault("embed", []).append(_embed_nothing(count))
        evaluated = min(max(count // 100, 32), 1000)
        heads = benchmark_heads(HeadsOptions(rows=count, epochs=1, evaluated=evaluated))
        seconds.setdefault("fit", []).append(heads.training.cpu_seconds)
        seconds.setdefault("evaluate", []).append(count * heads.prediction.cpu_seconds)
        seconds.setdefault("calibrate", []).append(heads.calibration.cpu_seconds)
    notes = {
        "embed": "drawn pictures of 64 pixels and a network that does nothing",
        "evaluate": "of a sample of the photos, multiplied",
        "calibrate": "of at most 1,500 photos",
    }
    return [
        Row(
            f"growth of {step}",
            f"{large:,} rows",
            f"{small:,} rows",
            "CPU s",
            {
                **ratios([last], [first]),
                "exponent": math.log(last / max(first, 1e-6)) / math.log(large / small),
            },
            at_most(exponent=1.05),
            notes.get(step, ""),
        )
        for step, (first, last) in seconds.items()
    ]


def _embed_nothing(count: int) -> float:
    """Return the CPU seconds of passing so many small pictures to a network that does nothing."""
    import torch
    from PIL import Image

    from geoclip_core.model.backbones import backbone_config, build_backbone
    from geoclip_core.training.embeddings import embed_images

    backbone = build_backbone(backbone_config("efficientnet-lite2", views=((64, 64),)))
    picture, width = Image.new("RGB", (64, 64), (90, 120, 60)), backbone.embedding_width

    def nothing(views: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.zeros(len(views[0]), width)

    return measured(lambda: embed_images(backbone, [picture] * count, engine=nothing)).cpu_seconds


GROUPS: dict[str, tuple[Callable[[bool], list[Row]], bool]] = {
    "photo": (one_photo, True),
    "ready": (ready, True),
    "cold": (cold, True),
    "many": (many, False),
    "heads": (trained, False),
    "geoclip": (geoclip_query, False),
    "nearest": (nearest, False),
    "embed": (embedding, False),
    "tables": (tables, False),
    "growth": (growth, False),
}
"""Name -> function that measures rows, given whether to be quick, and whether on one thread."""


class Bare:
    """What one would write with Pillow, NumPy and ONNX Runtime alone.

    Args:
        files: view (height, width) -> exported network.
        backbone: gives mean, deviation and resampling of the pixels.
        threads: of ONNX Runtime; 0: one per core.
    """

    def __init__(self, files: Sizes, backbone: "Backbone", threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._sessions = {
            size: onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
            for size, path in files.items()
        }
        self._preprocessing = backbone.preprocessing

    def embed(self, contents: Sequence[bytes]) -> NDArray[np.float32]:
        """Return the embeddings (n, D) of photos."""
        from PIL import Image

        preprocessing, batches = self._preprocessing, []
        method = Image.Resampling[preprocessing.resample.upper()]
        mean = np.array(preprocessing.mean, np.float32)
        std = np.array(preprocessing.std, np.float32)
        views: dict[tuple[int, int], list[NDArray[np.float32]]] = {}
        for content in contents:
            with Image.open(io.BytesIO(content)) as opened:
                opened.draft("RGB", preprocessing.draft_size)
                image = opened.convert("RGB")
            for height, width in self._sessions:
                pixels = np.asarray(image.resize((width, height), method), np.float32) / 255
                view = ((pixels - mean) / std).astype(np.float32, copy=False).transpose(2, 0, 1)
                views.setdefault((height, width), []).append(view)
        for size, session in self._sessions.items():
            stacked = np.ascontiguousarray(np.stack(views[size]), np.float32)
            batches.append(session.run(None, {"pixels": stacked})[0])
        return np.concatenate(batches, axis=1)


def jpeg(size: tuple[int, int], seed: int = 0) -> bytes:
    """Return the bytes of a JPEG of noise that is about as smooth as a photo."""
    from PIL import Image

    noise = np.random.default_rng(seed).normal(128, 50, (size[1] // 16, size[0] // 16, 3))
    picture = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    grain = np.random.default_rng(seed).normal(0, 8, (*size[::-1], 1))
    pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC)) + grain
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def cpu(costs: Sequence[Cost]) -> list[float]:
    """Return the CPU seconds of costs."""
    return [cost.cpu_seconds for cost in costs]


def milliseconds(costs: dict[str, list[Cost]], count: int) -> dict[str, float]:
    """Return `ratios` of the CPU milliseconds a photo."""
    sides = (costs["ours"], costs["theirs"])
    return ratios(*([1000 * value / count for value in cpu(side)] for side in sides))
