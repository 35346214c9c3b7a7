"""The older recipe learns what is linear, and its answers are places on the Earth."""

import numpy as np

from geoclip_core.loops.degrees_model import fit_degrees_model


def examples(count: int = 600):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(count, 8)).astype(np.float32)
    state = (embeddings[:, 1] > 0).astype(np.int64)
    coordinates = np.stack([embeddings[:, 1], embeddings[:, 2]], axis=1).astype(np.float64)
    return embeddings, coordinates, state


def test_it_learns_degrees():
    embeddings, coordinates, _ = examples()
    train, val = (embeddings[:400], coordinates[:400]), (embeddings[400:500], coordinates[400:500])
    places, _ = fit_degrees_model(train, val, {}, {})(embeddings[500:])
    error = np.abs(places - coordinates[500:]).mean(axis=0)
    constant = np.abs(coordinates[:400].mean(axis=0) - coordinates[500:]).mean(axis=0)
    assert (error < 0.6 * constant).all()


def test_it_learns_context_where_the_degrees_leave_it_alone():
    embeddings, _, state = examples()
    still = np.zeros((len(state), 2))
    train, val = (embeddings[:400], still[:400]), (embeddings[400:500], still[400:500])
    _, logits = fit_degrees_model(train, val, {"state": state[:400]}, {"state": 2})(
        embeddings[500:]
    )
    assert (logits["state"].argmax(axis=1) == state[500:]).mean() > 0.8


def test_without_context_it_gives_no_logits():
    embeddings, coordinates, _ = examples(100)
    data = (embeddings, coordinates)
    places, logits = fit_degrees_model(data, data, {}, {})(embeddings[:3])
    assert places.shape == (3, 2)
    assert logits == {}


def test_unknown_labels_are_left_out():
    embeddings, coordinates, state = examples(100)
    unknown = np.full_like(state, -100)
    data = (embeddings, coordinates)
    _, logits = fit_degrees_model(data, data, {"state": unknown}, {"state": 2})(embeddings)
    assert np.isfinite(logits["state"]).all()


def test_the_epoch_is_chosen_on_val():
    embeddings, coordinates, _ = examples(200)
    train, elsewhere = (embeddings, coordinates), (embeddings, np.zeros_like(coordinates))
    away = fit_degrees_model(train, elsewhere, {}, {})(embeddings)[0]
    home = fit_degrees_model(train, train, {}, {})(embeddings)[0]
    assert np.abs(away).mean() < np.abs(home).mean()


def test_answers_stay_on_the_earth():
    embeddings, _, _ = examples(200)
    wild = np.stack([400 * embeddings[:, 1], 2000 * embeddings[:, 2]], axis=1).astype(np.float64)
    data = (embeddings, wild)
    places, _ = fit_degrees_model(data, data, {}, {})(1000 * embeddings)
    assert (np.abs(places[:, 0]) <= 90).all()
    assert ((places[:, 1] >= -180) & (places[:, 1] < 180)).all()
