"""Baselines: known answers, and independence of the test split."""

import numpy as np
import pandas as pd
import pytest

from geoclip_core.earth.sphere import geoscore, haversine_km
from geoclip_core.evaluation import baselines


def rows(coordinates, split="train", prefix="p", **columns):
    coordinates = np.asarray(coordinates, float)
    frame = pd.DataFrame({"id": [f"{prefix}{i}" for i in range(len(coordinates))]})
    frame["latitude"], frame["longitude"] = coordinates[:, 0], coordinates[:, 1]
    return frame.assign(split=split, **columns)


class TestConstantGuess:
    def test_majority_place_wins(self):
        points = np.array([[40.0, -100.0]] * 8 + [[-30.0, 140.0]] * 3)
        assert baselines.constant_guess(points) == pytest.approx([40, -100], abs=0.05)

    def test_between_two_close_points_across_the_date_line(self):
        points = np.array([[0.0, 179.0], [0.0, -179.0], [0.5, 180.0]])
        guess = baselines.constant_guess(points)
        assert abs(abs(guess[1]) - 180) < 1.01
        own = geoscore(haversine_km(guess, points)).mean()
        assert own >= max(geoscore(haversine_km(p, points)).mean() for p in points)

    def test_no_point_of_a_fine_grid_has_a_higher_score(self):
        rng = np.random.default_rng(0)
        points = np.stack([rng.uniform(26, 48, 400), rng.uniform(-124, -95, 400)], axis=1)
        guess = baselines.constant_guess(points)
        grid = np.stack(np.meshgrid(np.arange(26, 48, 0.5), np.arange(-124, -95, 0.5)), axis=-1)
        best = max(geoscore(haversine_km(p, points)).mean() for p in grid.reshape(-1, 2))
        assert geoscore(haversine_km(guess, points)).mean() >= best - 0.01

    def test_large_sets_are_sampled(self):
        points = np.tile([[10.0, 20.0]], (50_000, 1))
        assert baselines.constant_guess(points) == pytest.approx([10, 20])


class TestCentroid:
    def test_centroid_of_the_true_class_and_fallback(self):
        train = rows([(10, 10), (10, 12), (50, 50)], state_key=["A", "A", "B"])
        test = rows(np.zeros((4, 2)), "test", "q", state_key=["A", "B", "never seen", None])
        guess = baselines.centroid_of_true(train, test, "state_key", np.array([1.0, 2.0]))
        assert guess[0] == pytest.approx([10.0015, 11], abs=1e-3)  # on the great circle between
        assert guess[1] == pytest.approx([50, 50])
        assert guess[2:].tolist() == [[1, 2], [1, 2]]

    def test_state_on_both_sides_of_the_date_line(self):
        train = rows([(0, 179), (0, -179)], state_key=["A", "A"])
        test = rows([(0, 0)], "test", "q", state_key=["A"])
        guess = baselines.centroid_of_true(train, test, "state_key", np.zeros(2))
        assert abs(guess[0, 1]) == pytest.approx(180)


class TestNearestNeighbours:
    def test_the_own_embedding_is_the_nearest(self):
        rng = np.random.default_rng(0)
        bank, places = rng.normal(size=(700, 16)), rng.uniform(-60, 60, (700, 2))
        guess = baselines.nearest_neighbours(bank, places, bank[:600], k=1)
        assert guess == pytest.approx(places[:600])

    def test_cluster_outvotes_a_single_closer_photo(self):
        rng = np.random.default_rng(0)
        bank = rng.normal(size=(60, 40))
        bank[1:4] = bank[0] + 0.1 * rng.normal(size=(3, 40))
        places = rng.uniform(-60, -20, (60, 2))
        places[:4] = [0.0, 0], [40, 40], [40.1, 40], [40, 40.1]
        one = baselines.nearest_neighbours(bank, places, bank[:1], k=1)
        four = baselines.nearest_neighbours(bank, places, bank[:1], k=4)
        assert one[0].tolist() == [0, 0]
        assert four[0] == pytest.approx([40, 40], abs=0.2)

    def test_more_neighbours_than_photos(self):
        bank, places = np.eye(3), np.array([[1.0, 1], [2, 2], [3, 3]])
        assert baselines.nearest_neighbours(bank, places, bank, k=50).shape == (3, 2)

    def test_embeddings_of_different_widths_are_an_error(self):
        with pytest.raises(baselines.BaselineError, match="do not match"):
            baselines.nearest_neighbours(np.eye(3), np.zeros((3, 2)), np.zeros((1, 4)))


def test_errors_are_columns_of_the_table():
    frame = rows([(0, 0), (0, 90)], "test")
    guesses = {"constant": np.zeros((2, 2)), "nearest_10": np.array([[0.0, 0], [0, 90]])}
    table = baselines.with_baselines(frame, guesses)
    errors = baselines.baseline_errors(table)
    assert list(errors) == ["constant", "nearest_10"]
    assert errors["constant"] == pytest.approx([0, np.pi * 6371 / 2])
    assert errors["nearest_10"] == pytest.approx([0, 0])


class TestTestSplitStaysUnseen:
    train = rows([(10, 10), (20, 20), (30, 30)], state_key=["A", "A", "B"], country_key="US")
    test = rows([(11, 11), (29, 29)], "test", "q", state_key=["A", "B"], country_key="US")

    def test_guesses_do_not_depend_on_the_test_coordinates(self):
        rng = np.random.default_rng(0)
        embeddings = {
            "train_embeddings": rng.normal(size=(3, 4)),
            "embeddings": rng.normal(size=(2, 4)),
        }
        moved = self.test.assign(latitude=[-80.0, 80.0], longitude=[-170.0, 170.0])
        first = baselines.baseline_guesses(self.train, self.test, **embeddings)
        second = baselines.baseline_guesses(self.train, moved, **embeddings)
        assert set(first) == {"constant", "true_state_centroid", "nearest_photo", "nearest_10"}
        for name, guess in first.items():
            assert guess == pytest.approx(second[name])

    def test_training_rows_of_another_split_are_an_error(self):
        for split in ("test", "val", "buffer"):
            mixed = pd.concat([self.train, rows([(0, 0)], split, "x")])
            with pytest.raises(baselines.BaselineError, match=split):
                baselines.baseline_guesses(mixed, self.test)

    def test_a_photo_in_both_tables_is_an_error(self):
        leaked = self.test.assign(id=["p1", "q1"])
        with pytest.raises(baselines.BaselineError, match="'p1' is both"):
            baselines.baseline_guesses(self.train, leaked)

    def test_no_training_rows(self):
        with pytest.raises(baselines.BaselineError, match="there are none"):
            baselines.baseline_guesses(self.train.iloc[:0], self.test)

    def test_embeddings_of_other_rows_are_an_error(self):
        with pytest.raises(baselines.BaselineError, match=r"2 and 2 embeddings for 3 training"):
            baselines.baseline_guesses(
                self.train,
                self.test,
                train_embeddings=np.zeros((2, 4)),
                embeddings=np.zeros((2, 4)),
            )
