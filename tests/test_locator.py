"""`Geolocator` with a model whose answers are known: they depend on the colour of the photo."""

import contextlib
import io
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from geoclip_core import locator as locator_module
from geoclip_core.data.vocabulary import month_vocabulary
from geoclip_core.errors import HintError, PhotoError
from geoclip_core.files import CACHE_VARIABLE
from geoclip_core.locator import Geolocator
from geoclip_core.model.backbone import Preprocessing
from geoclip_core.model.calibration import CALIBRATED_BY, identity_of
from geoclip_core.model.domain import Domain
from geoclip_core.model.geolocation import Estimate
from geoclip_core.model.posterior import Posterior
from geoclip_core.prediction import Failure, Prediction

ABILENE = (32.4487, -99.7331)
PARIS = (48.8534, 2.3488)


class MeanColour:
    """A backbone that embeds a photo as its mean red, green and blue."""

    preprocessing = Preprocessing(views=((32, 32), (32, 64)), mean=(0, 0, 0), std=(1, 1, 1))
    device = torch.device("meta")  # not a CPU, so that it is not exported

    def __init__(self):
        self.batches = []

    def embed(self, views):
        assert [tuple(v.shape[1:]) for v in views] == [(3, 32, 32), (3, 32, 64)]
        self.batches.append(len(views[0]))
        return views[0].mean(dim=(2, 3))


class RedOrBlue:
    """Red photos are from Abilene, blue ones from Paris; the month is the amount of green."""

    calibration = None
    context_source = "photo"
    domain = None

    def __init__(self):
        self.backbone = MeanColour()
        self.vocabularies = {"month": month_vocabulary()}

    def predict(self, embedding):
        estimates = []
        for red, green, blue in embedding.tolist():
            weights = torch.tensor([red, blue]).clamp(min=1e-6).log().numpy()
            month = np.full(12, 0.01)
            month[round(green * 11)] = 0.89
            posterior = Posterior(np.array([ABILENE, PARIS]), weights, bandwidth_km=20.0)
            estimates.append(Estimate(posterior, {"month": month}))
        return estimates


@pytest.fixture
def locator():
    return Geolocator(RedOrBlue(), "red-or-blue")


def photo(red, green=0.0, blue=0.0, size=(80, 60), **save):
    image = Image.new("RGB", size, tuple(round(255 * c) for c in (red, green, blue)))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **save)
    return buffer.getvalue()


def with_position(latitude, longitude):
    exif = Image.Exif()
    exif[0x0132] = "2024:07:01 12:00:00"
    gps = exif.get_ifd(0x8825)
    gps |= {1: "N", 2: (latitude, 0, 0), 3: "W", 4: (-longitude, 0, 0)}
    exif[0x8825] = gps
    buffer = io.BytesIO()
    Image.new("RGB", (80, 60), (255, 0, 0)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def test_a_photo_gets_a_named_place(locator):
    prediction = locator.locate(photo(0.9, blue=0.1, green=1.0), name="red.png")
    assert (prediction.latitude, prediction.longitude) == pytest.approx(ABILENE)
    assert prediction.place.city == "Abilene"
    assert prediction.place.state == "Texas"
    assert prediction.file == "red.png"
    assert prediction.model == "red-or-blue"
    assert prediction.candidates[0].probability == pytest.approx(0.9, abs=0.01)
    assert prediction.candidates[1].place.country == "FR"
    assert prediction.context["month"][0] == ("December", pytest.approx(0.89))
    assert len(prediction.context["month"]) == 12
    assert prediction.radius_km[0.5] < 60 < prediction.radius_km[0.9] + 60
    assert not prediction.calibrated
    assert prediction.exif is None
    assert prediction.error_km is None
    assert prediction.seconds > 0


def test_paths_bytes_and_images_give_the_same_answer(locator, tmp_path):
    path = tmp_path / "blue.png"
    path.write_bytes(photo(0.1, blue=0.9))
    answers = [
        locator.locate(source) for source in (path, str(path), path.read_bytes(), Image.open(path))
    ]
    for answer in answers:
        assert (answer.latitude, answer.longitude) == pytest.approx(PARIS)
    assert [answer.file for answer in answers] == [str(path), str(path), "photo", str(path)]


def test_exif_position_is_returned_but_not_used(locator):
    prediction = locator.locate(with_position(48, -2))
    assert (prediction.exif.latitude, prediction.exif.longitude) == (48, -2)
    assert prediction.exif.captured_at.year == 2024
    assert prediction.place.city == "Abilene"
    # great-circle distance from Abilene to 48 N 2 W, by an independent formula
    a, b = np.radians(ABILENE), np.radians((48, -2))
    cosine = np.sin(a[0]) * np.sin(b[0]) + np.cos(a[0]) * np.cos(b[0]) * np.cos(a[1] - b[1])
    assert prediction.error_km == pytest.approx(6371 * np.arccos(cosine), rel=1e-6)


def test_many_photos_keep_their_order_in_batches(locator):
    sources = [photo(0.9, blue=0.1), photo(0.1, blue=0.9), photo(0.8, blue=0.2)]
    done = []
    rows = list(locator.locate_many(sources, batch_size=2, progress=done.append))
    assert [row.place.country for row in rows] == ["US", "FR", "US"]
    assert locator.model.backbone.batches == [2, 1]
    assert done == [2, 3]
    single = locator.locate(sources[1])
    assert (rows[1].latitude, rows[1].longitude) == (single.latitude, single.longitude)


def test_an_unreadable_photo_raises_or_is_yielded(locator, tmp_path):
    text = tmp_path / "notes.jpg"
    text.write_text("not a photo")
    sources = [photo(1), text, tmp_path / "nowhere.jpg", photo(0, blue=1)]
    with pytest.raises(PhotoError):
        list(locator.locate_many(sources))
    rows = list(locator.locate_many(sources, errors="yield"))
    assert [type(row) for row in rows] == [Prediction, Failure, Failure, Prediction]
    assert rows[1].file == str(text)
    assert rows[1].error
    assert rows[3].place.country == "FR"


def test_several_photos_of_one_place_outvote_a_misleading_one(locator):
    red, blue = photo(0.7, blue=0.3), photo(0.2, blue=0.8)
    together = locator.locate([red, red, red, blue])
    assert together.place.city == "Abilene"
    assert locator.locate([blue]).place.country == "FR"


def test_invalid_arguments_are_errors(locator):
    with pytest.raises(ValueError, match="top_k"):
        locator.locate(photo(1), top_k=0)
    with pytest.raises(ValueError, match="batch_size"):
        list(locator.locate_many([photo(1)], batch_size=0))
    with pytest.raises(PhotoError):
        locator.locate([])


@pytest.mark.slow
def test_onnx_runtime_gives_the_same_answers_as_torch(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))  # without a network that is kept
    locator = Geolocator.load("mini")
    pictures = [photo(0.2 * i, 0.5, 1 - 0.2 * i) for i in range(3)]
    before = list(locator.locate_many(pictures))
    assert locator.engine is None
    assert locator.accelerate()
    for old, new in zip(before, locator.locate_many(pictures), strict=True):
        assert (new.latitude, new.longitude) == (old.latitude, old.longitude)
        assert new.radius_km[0.9] == pytest.approx(old.radius_km[0.9], rel=1e-2)
        probabilities = [c.probability for c in new.candidates]
        assert probabilities == pytest.approx([c.probability for c in old.candidates], abs=1e-3)
    later = Geolocator(locator.model, "mini")
    again = later.locate(pictures[0])
    assert later.engine is not None  # the kept network, from the first photo on
    assert (again.latitude, again.longitude) == (before[0].latitude, before[0].longitude)


def test_a_hint_moves_the_pin_and_the_old_one_is_kept(locator):
    source = photo(0.9, blue=0.1)
    prediction = locator.locate(source, given={"country": "France"})
    assert prediction.place.country == "FR"
    assert prediction.given == {"country": "France"}
    before = prediction.without_given
    assert before.place.city == "Abilene"
    assert before.without_given is None
    assert prediction.moved_km == pytest.approx(8148, rel=0.01)
    assert "With country France given, the estimate moved 8,1" in prediction.hint_sentence
    assert prediction.levels[2].name == "France"
    plain = locator.locate(source)
    assert (plain.latitude, plain.longitude) == (before.latitude, before.longitude)
    assert plain.moved_km is None
    (many,) = locator.locate_many([source], given={"country": "France"})
    assert (many.latitude, many.longitude) == (prediction.latitude, prediction.longitude)
    together = locator.locate([source, source], given={"country": "France"})
    assert together.place.country == "FR"


def test_hints_that_cannot_be_used_are_refused(locator):
    with pytest.raises(HintError, match="contradict"):
        locator.locate(photo(1), given={"country": "Finland", "climate": "Af"})
    with pytest.raises(ValueError, match="no context heads that could be switched off"):
        locator.locate(photo(1), use_context=False)


def test_a_radius_that_the_test_photos_contradict_is_not_stated():
    """30 of 200 photos inside the 50 % radius: far outside 95 % of the binomial distribution."""
    model = RedOrBlue()
    honest = Geolocator(model, "tiny").locate(photo(0.9, blue=0.1))
    coverage = {"50": 0.15, "90": 0.9}
    check = {
        "50": {"contradicted": True, "factor": 8.0, "coverage": 0.15},
        "90": {"contradicted": False, "factor": 1.1, "coverage": 0.9},
    }
    metrics = {"n": 200, "coverage": coverage, "radius_check": check}
    wider = Geolocator(model, "tiny", metrics=metrics).locate(photo(0.9, blue=0.1))
    assert wider.radius_km[0.5] == pytest.approx(8 * honest.radius_km[0.5])
    assert wider.radius_km[0.9] == honest.radius_km[0.9]
    assert wider.radius_note == ("as measured on 200 photos, where the 50 % radius held 15 %")
    calibrated_since = metrics | {CALIBRATED_BY: "of an earlier calibration"}
    since = Geolocator(model, "tiny", metrics=calibrated_since).locate(photo(0.9, blue=0.1))
    assert since.radius_km == honest.radius_km
    assert since.radius_note is None
    same = metrics | {CALIBRATED_BY: identity_of(model.calibration)}
    assert Geolocator(model, "tiny", metrics=same).locate(photo(0.9, blue=0.1)).radius_km == (
        wider.radius_km
    )
    old = {"n": 200, "coverage": coverage, "median_km": 640.0}  # without the check
    constant = Geolocator(model, "tiny", metrics=old).locate(photo(0.9, blue=0.1))
    assert constant.radius_km[0.5] == 640.0
    assert constant.radius_km[0.9] == honest.radius_km[0.9]
    fine = {"n": 200, "coverage": {"50": 0.46, "90": 0.9}}
    assert Geolocator(model, "tiny", metrics=fine).locate(photo(1)).radius_note is None


def test_a_photo_unlike_the_training_photos_is_said_to_be(locator):
    prediction = locator.locate(photo(0.9, blue=0.1))
    assert prediction.warning is None  # nothing is known about the training photos
    model = RedOrBlue()
    model.domain = Domain(
        photos=240,
        drawn=True,
        countries={"US": 240},
        states=10,
        first=None,
        last=None,
        cells=((31.25, -98.75, 240),),
        held_out_scores=tuple(np.linspace(-1, 1, 200)),
    )
    model.unlikeness = lambda embedding: 10 * embedding[:, 1].double().numpy()  # green
    knowing = Geolocator(model, "tiny")
    assert knowing.locate(photo(0.9, blue=0.1)).warning is None
    strange = knowing.locate(photo(0.9, blue=0.1, green=1.0))
    assert strange.warning == (
        "Unlike the training photos (tiny knows 240 drawn scenes of 10 US states): the answer may "
        "mean nothing. Only 0.5 % of held-out photos are as unlike."
    )
    assert strange.familiarity.unusual
    # the prior is the density of the training photos: many near Abilene, none near Paris
    assert strange.check(ABILENE).likelihood_ratio is not None
    assert strange.check(PARIS).likelihood_ratio is None
    both = knowing.locate([photo(0.9, blue=0.1), photo(0.9, blue=0.1, green=1.0)])
    assert both.warning is not None


def test_photos_are_read_before_the_lock_is_taken(locator, monkeypatch):
    """A slow photo of one session must not stop the others."""
    held, order = [False], []
    read, embed = locator_module.open_photo, locator.model.backbone.embed

    class Lock(contextlib.AbstractContextManager):
        def __enter__(self):
            held[0] = True

        def __exit__(self, *_):
            held[0] = False

    def reading(*arguments, **options):
        order.append(("read", held[0]))
        return read(*arguments, **options)

    def embedding(views):
        order.append(("embed", held[0]))
        return embed(views)

    monkeypatch.setattr(locator_module, "open_photo", reading)
    monkeypatch.setattr(locator.model.backbone, "embed", embedding)
    list(locator.embed([photo(1), photo(0)], lock=Lock()))
    assert order == [("read", False), ("read", False), ("embed", True)]
    assert held == [False]


@pytest.mark.parametrize("count", [24, 96])
def test_memory_does_not_grow_with_the_number_of_photos(count, monkeypatch):
    """Each decoding thread holds one picture, and two batches of views wait for the backbone."""
    locator = Geolocator(RedOrBlue(), "colours")
    read, embed = locator_module.open_photo, locator.model.backbone.embed
    pictures, views, most = [], [], {"pictures": 0, "views": 0}

    def note():
        for name, made in (("pictures", pictures), ("views", views)):
            most[name] = max(most[name], sum(one() is not None for one in made))

    def reading(*arguments, **options):
        opened = read(*arguments, **options)
        pictures.append(weakref.ref(opened.image))
        note()
        return opened

    class Prepared(locator_module._PreparedPhoto):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            views.append(weakref.ref(self))
            note()

    def embedding(batch):
        note()
        return embed(batch)

    monkeypatch.setattr(locator_module, "open_photo", reading)
    monkeypatch.setattr(locator_module, "_PreparedPhoto", Prepared)
    monkeypatch.setattr(locator.model.backbone, "embed", embedding)
    sources = (photo(number / count) for number in range(count))
    assert sum(1 for _ in locator.embed(sources, batch_size=4)) == len(views) == count
    assert 1 <= most["pictures"] <= 4
    assert 4 <= most["views"] <= 2 * 4


def test_embedded_photos_are_located_again_without_the_backbone():
    model = RedOrBlue()
    locator = Geolocator(model, "colours")
    red, blue = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
    embedded = list(locator.embed([red, blue, red], batch_size=2))
    assert model.backbone.batches == [2, 1]
    assert locator.locate(embedded[0]).place.city == "Abilene"
    cities = [row.place.city for row in locator.locate_many(embedded)]
    assert cities == ["Abilene", "Paris", "Abilene"]
    assert model.backbone.batches == [2, 1]
    mixed = list(locator.embed([embedded[1], red]))
    assert mixed[0] is embedded[1]
    assert model.backbone.batches == [2, 1, 1]


def test_a_failure_among_photos_to_embed_is_in_its_place():
    locator = Geolocator(RedOrBlue(), "colours")
    red = Image.new("RGB", (40, 30), "red")
    found = list(locator.embed([red, b"text", red], errors="yield"))
    assert [isinstance(one, Failure) for one in found] == [False, True, False]
    with pytest.raises(PhotoError):
        list(locator.embed([red, b"text"]))


def test_photos_that_do_not_fit_together_are_named():
    locator = Geolocator(RedOrBlue(), "colours")
    colours = {"a.png": (250, 0, 5), "b.png": (240, 0, 15), "c.png": (0, 0, 255)}
    photos = []
    for name, colour in colours.items():
        [one] = locator.embed([Image.new("RGB", (40, 30), colour)])
        photos.append(replace(one, file=name))
    assert locator.locate(photos).misfits == ("c.png",)
    assert locator.locate(photos[:2]).misfits == ()
    assert locator.locate(photos[2]).misfits == ()
