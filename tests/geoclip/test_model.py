import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from geoclip_core.earth.sphere import haversine_km
from geoclip_core.errors import CheckpointError
from geoclip_core.files import cache_folders
from geoclip_core.geoclip.gallery import encode_gallery
from geoclip_core.geoclip.model import GeoClip, load_geoclip
from geoclip_core.geoclip.weights import read_release
from geoclip_core.hub.wheel import convert_wheel
from geoclip_core.locator import Geolocator
from geoclip_core.model.backbones import build_backbone
from geoclip_core.model.calibration import Calibration
from geoclip_core.model.geoclip_image import (
    GEOCLIP_IMAGE_CONFIG,
    ClipPreprocessing,
    GeoClipFilesError,
    build_geoclip_image,
)
from tests.geoclip.geoclip_files import (
    make_clip,
    make_geoclip,
    make_release,
    published_wheel,
    random_coordinates,
)
from train.benchmarks.speed import published_package


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOCLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def geoclip(tmp_path):
    return load_geoclip(make_geoclip(tmp_path / "small"))


def noise(width=320, height=200, seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


# against the published package ------------------------------------------------------------


@pytest.mark.slow
def test_location_encoder_equals_the_published_one(tmp_path):
    coordinates = torch.from_numpy(random_coordinates(1000, seed=3)).float()
    edges = [[90.0, 0.0], [-90.0, 0.0], [90.0, 180.0], [0.0, 180.0], [0.0, -180.0], [0.0, 0.0]]
    edges += [[-54.8, 179.9999], [66.5, -179.9999]]
    coordinates[: len(edges)] = torch.tensor(edges)
    convert_wheel(published_wheel(), tmp_path / "release")
    ours = read_release(tmp_path / "release").location_encoder
    with published_package(published_wheel(), tmp_path / "package"):
        from geoclip.model.location_encoder import LocationEncoder

        theirs = LocationEncoder().eval()
        with torch.no_grad():
            difference = (ours(coordinates) - theirs(coordinates)).abs().max()
    assert float(difference) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("size", [(320, 200), (200, 333)])
def test_image_to_top_five_equals_the_published_one(tmp_path, monkeypatch, size):
    convert_wheel(published_wheel(), tmp_path / "release")
    make_clip(tmp_path / "release" / "image_tower", projection=768, side=224)
    photo = tmp_path / "photo.png"
    noise(*size).save(photo)
    with published_package(published_wheel(), tmp_path / "package"):
        from geoclip.model import GeoCLIP as geoclip_module
        from geoclip.model import image_encoder
        from transformers import CLIPImageProcessorPil

        # The small CLIP has no tokenizer, and without torchvision only this processor works.
        statistics = CLIPImageProcessorPil(
            image_mean=[0.48, 0.46, 0.41], image_std=[0.27, 0.26, 0.28]
        )
        monkeypatch.setattr(
            image_encoder,
            "AutoProcessor",
            type("Processor", (), {"from_pretrained": staticmethod(lambda _: statistics)}),
        )
        theirs = geoclip_module.GeoCLIP(clip_path=str(tmp_path / "release" / "image_tower")).eval()
        theirs.gps_gallery = theirs.gps_gallery[::40]
        theirs_places, theirs_probabilities = theirs.predict(str(photo), top_k=50)
    release = read_release(tmp_path / "release")
    backbone = build_geoclip_image(replace(GEOCLIP_IMAGE_CONFIG, name=str(tmp_path / "release")))
    gallery = encode_gallery(release.location_encoder, release.coordinates[::40])
    ours = GeoClip(backbone, gallery, release.logit_scale)
    with torch.no_grad():
        views = backbone.preprocessing.batch([Image.open(photo).convert("RGB")])
        places, probabilities = ours.top_places(backbone.embed(views), 5)
    # A float32 cosine differs by some 1e-6 between processors, which the factor exp(4.6) turns into
    # 1e-4 of a probability: near ties may swap, so each place is looked up in the package's answer.
    away = np.abs(places[0][:, None] - theirs_places.double().numpy()[None]).max(axis=2)
    assert away.min(axis=1).max() < 1e-4
    same = theirs_probabilities.numpy()[away.argmin(axis=1)]
    np.testing.assert_allclose(probabilities[0], same, rtol=1e-3)
    np.testing.assert_allclose(probabilities[0], theirs_probabilities[:5].numpy(), rtol=1e-3)


# the model --------------------------------------------------------------------------------


def test_crop_is_that_of_clips_own_processor():
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil()
    ours = ClipPreprocessing(
        views=((224, 224),),
        framing="crop",
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
    )
    for size in ((910, 512), (301, 777), (100, 150), (224, 224)):
        photo = noise(*size)
        expected = processor(images=photo, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(ours.pixels(photo)[0], expected, atol=1e-6, rtol=0)


def test_a_strip_of_pixels_is_cropped_before_it_is_enlarged():
    ours = ClipPreprocessing(views=((224, 224),), framing="crop")
    assert ours.pixels(Image.new("RGB", (1, 20_000)))[0].shape == (3, 224, 224)


def test_probabilities_are_a_softmax_of_scaled_cosines(geoclip):
    embedding = torch.randn(3, geoclip.backbone.embedding_width)
    query = torch.nn.functional.normalize(embedding[:, 48:], dim=1)
    places = torch.from_numpy(geoclip.gallery.coordinates).float()
    location = torch.nn.functional.normalize(geoclip.gallery.encoder(places), dim=1)
    expected = (np.exp(3.0) * query @ location.T).softmax(dim=1)
    best, probabilities = geoclip.top_places(embedding, 4)
    values, indices = expected.topk(4, dim=1)
    np.testing.assert_allclose(probabilities, values.detach().numpy(), rtol=2e-3)
    np.testing.assert_allclose(best, geoclip.gallery.coordinates[indices.numpy()])


def test_posterior_sums_neighbours_at_the_likeliest_of_them(tmp_path):
    folder = make_geoclip(tmp_path / "small", places=4)
    # Two within a kilometre of each other, one twice, one alone.
    text = "LAT,LON\n10.001,20.001\n10.002,20.003\n-30.01,5.01\n-30.01,5.01\n60.0,-100.0\n"
    (folder / "coordinates_100K.csv").write_text(text)
    model = load_geoclip(folder)
    embedding = torch.randn(1, model.backbone.embedding_width)
    single = model.logits(embedding).softmax(dim=1)[0].double().numpy()
    posterior = model.predict(embedding)[0].posterior
    assert len(posterior) == 3
    points = np.round(posterior.points, 6)
    summed = {tuple(p): w for p, w in zip(points, posterior.weights, strict=True)}
    near = model.gallery.coordinates[int(single[:2].argmax())]
    assert summed[tuple(near)] == pytest.approx(single[:2].sum(), rel=1e-5)
    assert summed[(-30.01, 5.01)] == pytest.approx(single[2:4].sum(), rel=1e-5)
    assert summed[(60.0, -100.0)] == pytest.approx(single[4], rel=1e-5)


def test_a_locator_serves_geoclip_like_any_model(tmp_path):
    folder = make_geoclip(tmp_path / "small")
    locator = Geolocator.load(folder)
    prediction = locator.locate(noise(), top_k=3)
    assert not prediction.calibrated
    assert len(prediction.candidates) == 3
    first, second = prediction.candidates[:2]
    apart = haversine_km((first.latitude, first.longitude), (second.latitude, second.longitude))
    assert apart > 150
    assert 0 < prediction.radius_km[0.5] <= prediction.radius_km[0.9]
    assert prediction.context_source == "map"
    assert {"climate", "country"} <= set(prediction.context)
    assert sum(p for _, p in prediction.context["country"]) <= 1 + 1e-9
    several = locator.locate([noise(), noise(seed=1)], top_k=2)
    assert several.context


def test_a_saved_calibration_is_used_for_the_same_weights_only(tmp_path, cache):
    folder = make_geoclip(tmp_path / "small")
    model = load_geoclip(folder)
    assert model.calibration is None
    calibration = Calibration(2.0, 70.0, {"50": 1.5, "90": 2.0}, 40, "my photos")
    path = model.keep_calibration(calibration)
    assert path.parent == cache_folders().calibrations
    again = load_geoclip(folder)
    assert again.calibration == calibration
    posterior = again.predict(torch.randn(1, again.backbone.embedding_width))[0].posterior
    assert posterior.bandwidth_km == 70.0
    other_tower = make_clip(tmp_path / "other", seed=5)
    shutil.rmtree(folder / "image_tower")
    shutil.copytree(other_tower, folder / "image_tower")
    assert load_geoclip(folder).calibration is None
    path.write_text("{")
    make_clip(folder / "image_tower")
    with pytest.raises(CheckpointError, match="calibrate again"):
        load_geoclip(folder)


def test_the_image_side_is_a_backbone(tmp_path):
    folder = make_geoclip(cache_folders().models / "geoclip")
    backbone = build_backbone("geoclip-image")
    assert backbone.block_widths == (48, 32)
    views = backbone.preprocessing.batch([noise(), noise(seed=1)])
    embedding = backbone.embed(views)
    assert embedding.shape == (2, 80)
    whole = load_geoclip(folder)
    torch.testing.assert_close(whole.backbone.embed(views), embedding)
    backbone.set_trainable("last-block")
    learning = [n for n, p in backbone.named_parameters() if p.requires_grad]
    assert any("layers.1." in name for name in learning)
    assert not any("layers.0." in name for name in learning)
    assert any(name.startswith("mlp.") for name in learning)
    copy = build_geoclip_image(backbone.config, json.loads(json.dumps(backbone.architecture())))
    copy.load_state_dict(backbone.state_dict())
    torch.testing.assert_close(copy.eval().embed(views), embedding)


def test_a_folder_of_a_release_is_a_backbone_too(tmp_path):
    folder = make_geoclip(tmp_path / "mine")
    assert build_backbone(str(folder)).block_widths == (48, 32)


# damaged files ----------------------------------------------------------------------------


def edit_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "coordinates_100K.csv").unlink(), "csv does not exist"),
        (lambda f: (f / "coordinates_100K.csv").write_text("LAT,LON\n1,2\n91,0\n"), "line 3"),
        (lambda f: (f / "coordinates_100K.csv").write_text("LAT,LON\n"), "no places"),
        (lambda f: (f / "coordinates_100K.csv").write_text("a,b\n1,2\n"), "LAT and LON"),
        (lambda f: (f / "config.json").write_text("[]"), "JSON object"),
        (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 100), "as safetensors"),
        (lambda f: edit_tensors(f, lambda t: t.pop("logit_scale")), "logit_scale"),
        (
            lambda f: edit_tensors(f, lambda t: t["image_encoder.mlp.0.bias"].fill_(np.nan)),
            "finite",
        ),
        (lambda f: edit_tensors(f, lambda t: t.pop("location_encoder.LocEnc1.head.0.bias")), "fit"),
        (lambda f: edit_tensors(f, lambda t: t.update(x=torch.ones(1))), "unknown weights x"),
        (lambda f: shutil.rmtree(f / "image_tower"), "download"),
        (
            lambda f: (f / "image_tower" / "model.safetensors").unlink(),
            "image_tower cannot be read",
        ),
        (
            lambda f: (f / "image_tower" / "config.json").write_text("{}"),
            "image_tower cannot be read",
        ),
        (lambda f: make_clip(f / "image_tower", projection=20), "gives 20 features"),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, message):
    folder = make_geoclip(tmp_path / "small")
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        load_geoclip(folder)


def test_a_gallery_outside_the_folder_is_refused(tmp_path):
    folder = make_release(tmp_path / "small")
    config = json.loads((folder / "config.json").read_text())
    config["gallery_file"] = "../secret.csv"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(GeoClipFilesError, match="gallery_file"):
        read_release(folder)


def test_the_error_without_a_download_names_the_command():
    with pytest.raises(CheckpointError, match="geoclip_core download geoclip"):
        Geolocator.load("geoclip")
    with pytest.raises(CheckpointError, match="geoclip_core download geoclip"):
        build_geoclip_image(GEOCLIP_IMAGE_CONFIG)
