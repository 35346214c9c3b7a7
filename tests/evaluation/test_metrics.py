"""Every metric against tables small enough to check by hand."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.evaluation import intervals, metrics, radii
from geoclip_core.evaluation.baselines import with_baselines
from tests.evaluation.synthetic_predictions import synthetic_predictions

DEGREE_KM = math.pi * 6371 / 180  # of a great circle: 111.19 km


def table(truth, guess, **columns):
    truth, guess = np.asarray(truth, float), np.asarray(guess, float)
    frame = pd.DataFrame(
        {
            "id": [str(i) for i in range(len(truth))],
            "latitude": truth[:, 0],
            "longitude": truth[:, 1],
            "predicted_latitude": guess[:, 0],
            "predicted_longitude": guess[:, 1],
            "radius_50_km": np.nan,
            "radius_90_km": np.nan,
            "log_density": np.nan,
        }
    )
    frame["error_km"] = metrics.errors_km(frame, guess)
    return frame.assign(**columns)


class TestDistances:
    def test_known_errors(self):
        numbers = metrics.distance_metrics(np.array([0.0, 1492.7, 24.9, 200.0]))
        assert numbers["geoscore"] == pytest.approx(
            (
                5000
                + 5000 / math.e
                + 5000 * math.exp(-24.9 / 1492.7)
                + 5000 * math.exp(-200 / 1492.7)
            )
            / 4
        )
        assert numbers["median_km"] == pytest.approx((24.9 + 200) / 2)
        assert numbers["mean_km"] == pytest.approx((1492.7 + 24.9 + 200) / 4)
        # 200 km is not less than 200 km
        assert numbers["accuracy_at_km"] == {
            "1": 0.25,
            "25": 0.5,
            "200": 0.5,
            "750": 0.75,
            "2500": 1.0,
        }
        assert numbers["quantiles_km"]["0.5"] == pytest.approx(numbers["median_km"])

    def test_date_line_poles_and_antipode(self):
        frame = table(
            truth=[(0, 179.5), (89.5, 10), (-90, 0), (0, 0)],
            guess=[(0, -179.5), (89.5, -170), (-90, 123), (0, 180)],
        )
        expected = [DEGREE_KM, DEGREE_KM, 0, math.pi * 6371]
        assert frame["error_km"].to_numpy() == pytest.approx(expected, abs=1e-6)

    def test_one_guess_for_all_rows(self):
        frame = table([(0, 0), (0, 1)], [(0, 0), (0, 0)])
        assert metrics.errors_km(frame, np.array([0, 0])) == pytest.approx([0, DEGREE_KM])

    def test_no_errors_give_none_instead_of_zero(self):
        numbers = metrics.distance_metrics(np.array([]))
        assert numbers["geoscore"] is None
        assert numbers["accuracy_at_km"]["25"] is None


class TestPlaces:
    """OSV-5M: the reverse-geocoded guess against unique_*, missing truths out of that level."""

    def guessed(self, frame, *rows):
        names = ["unique_country", "unique_region", "unique_sub-region", "unique_city"]
        found = pd.DataFrame(rows, columns=names)
        return metrics.with_places(frame, SimpleNamespace(frame=lambda coordinates: found))

    def test_every_place_level_has_its_own_denominator(self):
        frame = table(
            np.zeros((4, 2)),
            np.zeros((4, 2)),
            country_key=["US", "US", "GM", "US"],
            state_key=["Texas_US", "Texas_US", "Central River_GM", None],
            county_key=["Taylor County_Texas_US", None, None, None],
            city_key=["Abilene_Taylor County_Texas_US", "Waco__Texas_US", None, None],
        )
        frame = self.guessed(
            frame,
            ("US", "Texas_US", "Taylor County_Texas_US", "Tye_Taylor County_Texas_US"),
            ("US", "Ohio_US", "Ross County_Ohio_US", "Waco__Texas_US"),
            ("SN", "Central River_GM", None, None),
            ("US", "Texas_US", None, None),
        )
        hits = metrics.place_hits(frame)
        assert hits["country"].tolist() == [1, 1, 0, 1]
        assert hits["region"].tolist()[:3] == [1, 0, 1]
        assert math.isnan(hits["region"][3])
        assert hits["region"].mean() == pytest.approx(2 / 3)
        assert hits["sub-region"].mean() == 1.0  # of the single row that has one
        assert hits["city"].mean() == 0.5

    def test_a_guess_without_a_name_is_wrong(self):
        frame = table([(0, 0)], [(0, 0)], county_key=["Taylor County_Texas_US"])
        assert metrics.place_hits(self.guessed(frame, ("US", "", None, "")))["sub-region"][0] == 0

    def test_a_level_without_any_truth_is_left_out(self):
        frame = table([(0, 0)], [(0, 0)], county_key=[None], country_key=["US"])
        assert list(metrics.place_hits(self.guessed(frame, ("US", "", None, "")))) == ["country"]

    def test_filtered_rows_keep_their_hits(self):
        frame = table(np.zeros((2, 2)), np.zeros((2, 2)), country_key=["US", "GM"])
        frame = self.guessed(frame, ("US", "", None, ""), ("US", "", None, ""))
        assert metrics.place_hits(frame.iloc[1:])["country"].tolist() == [0]

    def test_worked_example_with_the_real_gazetteer(self):
        abilene, waco, el_paso = (32.449, -99.733), (31.549, -97.147), (31.759, -106.487)
        frame = table(
            [abilene, abilene],
            [(32.45, -99.74), waco],
            country_key="US",
            state_key="Texas_US",
            county_key="Taylor County_Texas_US",
            city_key="Abilene_Taylor County_Texas_US",
        )
        gazetteer = Gazetteer.load()
        report = metrics.summarise(metrics.with_places(frame, gazetteer), resamples=50)
        assert report["place_accuracy"] == {
            "country": 1.0,
            "region": 1.0,
            "sub-region": 0.5,
            "city": 0.5,
        }
        assert report["place_n"]["city"] == 2
        frame["predicted_latitude"], frame["predicted_longitude"] = 28.64, -106.09  # Chihuahua
        report = metrics.summarise(metrics.with_places(frame, gazetteer), resamples=0)
        assert report["place_accuracy"]["country"] == 0.0
        assert el_paso[0] > 28.64  # the border lies between them


def head(truth, top1, probability, rank, truth_probability, **more):
    frame = table(np.zeros((len(truth), 2)), np.zeros((len(truth), 2)))
    frame["state_truth"] = pd.Series(truth, dtype="str")
    frame["state_top1"] = pd.Series(top1, dtype="str")
    frame["state_probability"] = probability
    frame["state_rank"] = pd.array(rank, dtype="Int32")
    frame["state_truth_probability"] = truth_probability
    return frame.assign(**more)


class TestHeads:
    def test_metrics_of_a_small_table(self):
        frame = head(
            truth=["A", "A", "B", "C", None],
            top1=["A", "B", "B", "A", "A"],
            probability=[0.95, 0.65, 0.85, 0.45, 0.9],
            rank=[1, 3, 1, 6, None],
            truth_probability=[0.95, 0.1, 0.85, 0.0, np.nan],
            state_key=["A", "A", "B", "C", "never seen"],
        )
        numbers = metrics.head_metrics(frame, "state")
        assert numbers["n"] == 4
        assert numbers["unseen"] == 1
        assert (numbers["top1"], numbers["top3"], numbers["top5"]) == (0.5, 0.75, 0.75)
        assert numbers["top1_with_unseen"] == pytest.approx(2 / 5)
        assert numbers["majority"] == 0.5
        # F1: A = 2·1/(2+1+1), B = 2·1/(2+1+0), C = 0
        assert numbers["macro_f1"] == pytest.approx((2 / 4 + 2 / 3 + 0) / 3)
        smallest = np.finfo(np.float32).eps
        logs = np.log([0.95, 0.1, 0.85, smallest])
        assert numbers["log_loss"] == pytest.approx(-logs.mean(), rel=1e-6)
        # one photo in each of four bins: |claimed - reached|
        gaps = [0.05, 0.65, 0.15, 0.45]
        assert numbers["expected_calibration_error"] == pytest.approx(sum(gaps) / 4, rel=1e-6)

    def test_a_table_without_known_truths(self):
        frame = head([None, None], ["A", "B"], [0.5, 0.5], [None, None], [np.nan, np.nan])
        numbers = metrics.head_metrics(frame, "state")
        assert numbers["n"] == 0
        assert numbers["top1"] is None
        report = metrics.summarise(frame, resamples=20)
        assert report["intervals"]["context"]["state"]["top1"] is None
        json.dumps(report, allow_nan=False)

    def test_class_index_minus_100_is_unknown_not_unseen(self):
        frame = head(["A", None], ["A", "A"], [1, 1], [1, None], [1, np.nan])
        frame = frame.rename(columns=lambda name: name.replace("state_", "climate_"))
        assert metrics.head_metrics(frame.assign(climate=[3, -100]), "climate")["unseen"] == 0

    def test_macro_f1_counts_classes_that_are_only_guessed(self):
        truth, guess = pd.Series(["A", "A"]), pd.Series(["A", "Z"])
        assert metrics.macro_f1(truth, guess) == pytest.approx((2 / 3 + 0) / 2)

    def test_reliability_bins_include_their_edges(self):
        curve = metrics.reliability_curve(np.array([0.0, 0.1, 1.0, 1.0]), np.array([0, 1, 1, 0]))
        assert curve["n"].tolist() == [1, 1, 2]
        assert curve["reached"].tolist() == [0, 1, 0.5]

    def test_confusions(self):
        frame = head(
            ["A"] * 5 + ["B"] * 3 + ["C"],
            ["A", "A", "B", "B", "C", "B", "A", "A", "C"],
            [0.5] * 9,
            [1] * 9,
            [0.5] * 9,
        )
        counts, dropped = metrics.confusion_counts(frame, "state")
        assert counts.loc["A"].tolist() == [2, 2, 1]
        assert counts.to_numpy().sum() == 9
        assert dropped == 0
        small, dropped = metrics.confusion_counts(frame, "state", limit=2)
        assert list(small.index) == ["A", "B", "other"]
        assert dropped == 1
        assert small.to_numpy().sum() == 9
        pairs = metrics.confused_pairs(frame, "state")
        assert pairs[["truth", "guess", "n"]].to_numpy().tolist() == [
            ["A", "B", 2],
            ["B", "A", 2],
            ["A", "C", 1],
        ]
        assert pairs["share"].tolist() == pytest.approx([2 / 5, 2 / 3, 1 / 5])


class TestReliability:
    def frame(self, error, radius_50, radius_90=None):
        error = np.asarray(error, float)
        return pd.DataFrame(
            {
                "error_km": error,
                "radius_50_km": np.asarray(radius_50, float),
                "radius_90_km": np.asarray(radius_90 or radius_50, float),
            }
        )

    def test_inside_includes_the_edge_and_skips_missing_radii(self):
        inside = radii.inside_radius(self.frame([10, 11, 5], [10, 10, np.nan]))
        assert inside["50"][:2].tolist() == [1, 0]
        assert math.isnan(inside["50"][2])

    def test_risk_is_ordered_by_radius_with_the_worst_of_ties_first(self):
        frame = self.frame([1, 100, 50, 2], [10, 10, 20, 30])
        curve = radii.risk_coverage(frame).set_index("share")
        assert curve.loc[0.25, "mean_km"] == 100  # of the tied pair the worse one first
        assert curve.loc[0.5, "mean_km"] == pytest.approx(50.5)
        assert curve.loc[1.0, "mean_km"] == pytest.approx(153 / 4)
        assert curve.loc[0.5, "radius_50_km"] == 10

    def test_without_radii_the_curves_are_empty(self):
        frame = self.frame([1, 2], [np.nan, np.nan])
        assert radii.risk_coverage(frame).empty
        assert radii.coverage_curve(frame).empty
        assert radii.coverage_at_scales(frame)["coverage_50"].isna().all()

    def test_coverage_at_scales(self):
        frame = self.frame([10, 20, 40, 0], [10, 10, 10, 0])
        curve = radii.coverage_at_scales(frame, np.array([0.5, 1, 2, 4]))
        assert curve["coverage_50"].tolist() == [0.25, 0.5, 0.75, 1.0]

    def test_coverage_curve_has_groups_of_equal_size(self):
        frame = self.frame(np.arange(100), np.arange(100), list(np.arange(100) / 2))
        curve = radii.coverage_curve(frame, bins=5)
        assert curve["n"].tolist() == [20] * 5
        assert curve["coverage_50"].tolist() == [1.0] * 5
        assert curve["coverage_90"].iloc[-1] == 0


class TestTablesOfFigures:
    def test_every_photo_is_in_one_bin(self):
        error = np.array([0.0, 0.4, 1.0, 1.2, 24.9, 25.0, 2500.0, 20_015.0])
        bins = metrics.error_bins(error)
        assert bins["photos"].sum() == 8
        assert bins["photos"].iloc[0] == 2  # below 1 km
        assert bins["share"].sum() == pytest.approx(1)
        for value in error:
            inside = (bins["low_km"] <= value + 1e-9) & (value < bins["high_km"])
            assert bins.loc[inside, "photos"].sum() >= 1
        assert (bins["high_km"].to_numpy()[:-1] == bins["low_km"].to_numpy()[1:]).all()

    def test_the_cumulative_curve_agrees_with_the_accuracies(self):
        curve = metrics.cumulative_curve(np.array([10.0, 200.0, 300.0, 900.0])).set_index(
            "error_km"
        )
        assert curve.loc[25, "share"] == 0.25
        assert curve.loc[200, "share"] == 0.25  # 200 km is not within 200 km
        assert curve.loc[750, "share"] == 0.75
        assert curve["share"].iloc[-1] == 1

    def test_groups_of_a_small_table(self):
        frame = pd.DataFrame({"error_km": [10.0, 30.0, 20.0, 500.0, 7.0]})
        table = metrics.group_errors(frame, pd.Series(["a", "a", "a", "b", None]))
        assert table["group"].tolist() == ["a", "b"]
        assert table["photos"].tolist() == [3, 1]
        assert table["median"].tolist() == [20, 500]
        assert table["geoscore"].tolist() == pytest.approx(
            [5000 * np.exp(-np.array([10, 30, 20]) / 1492.7).mean(), 5000 * np.exp(-500 / 1492.7)]
        )
        assert metrics.group_errors(frame, pd.Series([None] * 5)).empty

    def test_radii_are_grouped_in_their_order(self):
        keys = metrics.radius_group(pd.Series([3000.0, 10.0, np.nan, 30.0, 20_000.0]))
        frame = pd.DataFrame({"error_km": np.ones(5)})
        found = metrics.group_errors(frame, keys).sort_values("group")["group"].astype(str).tolist()
        assert found == ["0–25 km", "25–100 km", "2,500–5,000 km", "over 5,000 km"]


class TestIntervals:
    @pytest.mark.slow
    def test_the_interval_of_a_mean_has_the_stated_coverage(self):
        """200 samples of a skewed distribution with mean 1: 95 % of the intervals must hold it."""
        rng = np.random.default_rng(5)
        inside = 0
        for trial in range(300):
            sample = rng.exponential(1.0, 200)
            low, high = intervals.mean_intervals(sample[:, None], resamples=300, seed=trial)[0]
            inside += low <= 1.0 <= high
        assert 0.90 <= inside / 300 <= 0.985

    @pytest.mark.slow
    def test_the_interval_of_a_median_covers_it(self):
        rng = np.random.default_rng(6)
        inside = 0
        for trial in range(200):
            samples = intervals.median_samples(rng.normal(7, 2, 101), resamples=200, seed=trial)
            low, high = intervals.percentile_interval(samples)
            inside += low <= 7 <= high
        assert 0.89 <= inside / 200 <= 0.99

    def test_the_width_agrees_with_the_normal_distribution(self):
        sample = np.random.default_rng(1).normal(0, 1, 2500)
        low, high = intervals.mean_intervals(sample[:, None], resamples=2000)[0]
        assert (high - low) / 2 == pytest.approx(1.96 * sample.std() / 50, rel=0.08)

    def test_drawing_sequences_whole_widens_the_interval(self):
        """Ten copies of a photo tell no more than the photo: the interval must be that of n/10."""
        base = np.random.default_rng(2).normal(0, 1, 400)
        copies, groups = np.repeat(base, 10), np.repeat(np.arange(400), 10)
        narrow = intervals.mean_intervals(copies[:, None])[0]
        wide = intervals.mean_intervals(copies[:, None], groups=groups)[0]
        honest = intervals.mean_intervals(base[:, None])[0]
        assert wide == pytest.approx(honest, rel=1e-9)
        assert (wide[1] - wide[0]) > 2.5 * (narrow[1] - narrow[0])

    def test_rows_without_a_sequence_are_drawn_alone(self):
        codes = intervals.group_codes(["a", None, "a", None])
        assert codes[0] == codes[2]
        assert len(set(codes)) == 3

    def test_none_of_seventy_is_not_certainly_zero(self):
        low, high = intervals.mean_intervals(np.zeros((70, 1)), shares=[True])[0]
        assert low == 0
        assert high == pytest.approx(1 - 0.025 ** (1 / 70))  # Clopper-Pearson by hand
        assert intervals.mean_intervals(np.zeros((70, 1)))[0] == (0, 0)  # a mean, not a share

    def test_a_missing_value_does_not_affect_other_columns(self):
        values = np.array([[1.0, np.nan], [3.0, np.nan], [5.0, 2.0]])
        (low, high), empty = intervals.mean_intervals(values)
        assert 1 <= low < 3 < high <= 5
        assert all(math.isnan(bound) for bound in empty)  # one row says nothing of its spread

    @pytest.mark.parametrize("n", [2, 7, 30, 1500])
    def test_sample_of_a_median_is_the_median_of_the_drawn_values(self, n):
        values = np.random.default_rng(3).normal(size=n)
        groups = np.arange(n) // 2
        found = intervals.median_samples(values, resamples=40, seed=1, groups=groups)
        drawn = np.concatenate(list(intervals.resampled(groups, 40, 1)))
        assert found == pytest.approx(
            [np.median(np.repeat(values, counts[groups])) for counts in drawn]
        )

    @pytest.mark.parametrize("groups", [None, np.arange(18_000) // 3])
    def test_bundles_of_a_large_table_give_similar_intervals(self, groups, monkeypatch):
        rng = np.random.default_rng(4)
        center = np.repeat(rng.normal(0, 1, 6000), 3)
        values = np.exp(center + rng.normal(0, 1, 18_000))
        columns = np.stack([values, values < 1, np.where(center > 0, values, np.nan)], axis=1)

        def measured():
            draw = {"resamples": 1000, "groups": groups}
            medians = intervals.median_samples(values, **draw)
            bounds = intervals.mean_intervals(columns, shares=[False, True, False], **draw)
            return [*bounds, intervals.percentile_interval(medians)]

        bundled = measured()
        monkeypatch.setattr(intervals, "MOST_UNITS", 100_000)
        for (low, high), found in zip(measured(), bundled, strict=True):
            assert found == pytest.approx((low, high), abs=0.12 * (high - low))

    def test_a_share_that_never_occurs_in_a_large_table_counts_every_photo(self):
        low, high = intervals.mean_intervals(np.zeros((20_000, 1)), resamples=50, shares=[True])[0]
        assert (low, high) == (0, pytest.approx(1 - 0.025 ** (1 / 20_000)))

    def test_paired_difference_is_narrower_than_two_separate_intervals(self):
        error = synthetic_predictions(800, candidates=False)["error_km"].to_numpy()
        gap = metrics.paired_difference(error, error + 20, resamples=300)
        assert gap["mean_km"]["difference"] == pytest.approx(-20)
        assert gap["mean_km"]["low"] == pytest.approx(-20)
        assert gap["median_km"]["high"] == pytest.approx(-20)
        assert gap["geoscore"]["low"] > 0

    def test_errors_of_different_lengths_cannot_be_paired(self):
        with pytest.raises(ValueError, match="cannot be paired"):
            metrics.paired_difference(np.zeros(3), np.zeros(4))


class TestSummary:
    def test_metrics_lie_in_their_intervals_and_are_valid_json(self):
        frame = synthetic_predictions(600, candidates=False)
        centre = np.tile([38.0, -105.0], (len(frame), 1))
        frame = with_baselines(metrics.with_places(frame, Gazetteer.load()), {"constant": centre})
        report = metrics.summarise(frame, resamples=200)
        json.dumps(report, allow_nan=False)
        bounds = report["intervals"]
        assert bounds["resamples"] == 200
        for name in ("geoscore", "median_km", "mean_km"):
            assert bounds[name][0] <= report[name] <= bounds[name][1]
        for name in ("accuracy_at_km", "place_accuracy", "coverage"):
            for key, value in report[name].items():
                assert bounds[name][key][0] <= value <= bounds[name][key][1]
        for feature, numbers in report["context"].items():
            for key in ("top1", "top3", "top5"):
                low, high = bounds["context"][feature][key]
                assert low <= numbers[key] <= high
        assert report["baselines"]["constant"]["difference"]["geoscore"]["low"] > 0
        assert set(report["context"]) == {"climate", "month", "state", "county", "city"}

    def test_the_same_seed_gives_the_same_intervals(self):
        frame = synthetic_predictions(100, candidates=False)
        first, second = (metrics.summarise(frame, resamples=50, seed=3) for _ in range(2))
        assert first == second

    def test_empty_table(self):
        report = metrics.summarise(synthetic_predictions(5, candidates=False).iloc[:0])
        assert report["n"] == 0
        assert report["geoscore"] is None
        json.dumps(report, allow_nan=False)

    def test_single_photo_has_no_spread(self):
        report = metrics.summarise(synthetic_predictions(1, candidates=False), resamples=20)
        assert report["intervals"]["geoscore"] is None
        assert report["intervals"]["median_km"] is None
        json.dumps(report, allow_nan=False)


def test_levels_that_claim_60_percent_are_right_in_60_percent():
    rng = np.random.default_rng(0)
    n = 4000
    claimed = rng.uniform(0.05, 0.95, n)
    right = rng.uniform(size=n) < claimed
    frame = pd.DataFrame(
        {
            "country_key": np.where(right, "CL", "KE"),
            "level_continent": "South America",
            "level_continent_probability": np.ones(n),
            "level_country": "CL",
            "level_country_probability": claimed,
        }
    )
    levels = metrics.level_metrics(frame)
    country = levels["by_level"]["country"]
    assert country["n"] == n
    assert country["reached"] == pytest.approx(right.mean())
    assert country["expected_calibration_error"] < 0.04
    # the continent was claimed with certainty, and Kenya is not in South America
    assert levels["by_level"]["continent"]["expected_calibration_error"] == pytest.approx(
        1 - right.mean()
    )
    headline = levels["headline"]
    assert headline["n"] == n
    assert headline["reached"] == pytest.approx(right.mean())
    assert "subcontinent" not in levels["by_level"]
    assert metrics.level_metrics(frame[["country_key"]]) == {}
    assert metrics.level_metrics(frame.drop(columns="level_country_probability")) != {}
    damaged = metrics.level_metrics(frame.assign(level_country_probability="text"))
    assert damaged["by_level"]["country"]["n"] == 0


class TestClaims:
    def frame(self, rng, n=3000, power=4.0):
        return pd.DataFrame(
            {
                "truth_p_value": rng.uniform(size=n),
                "other_p_value": rng.uniform(size=n) ** power,
                "held_out_photos": 1e9,
            }
        )

    def test_uniform_p_values_are_valid_and_power_is_counted(self):
        claims = metrics.claim_metrics(self.frame(np.random.default_rng(0)))
        assert claims["n"] == 3000
        assert claims["deciles"] == pytest.approx([0.1] * 10, abs=0.02)
        assert claims["kolmogorov_smirnov_p"] > 0.05
        assert claims["rejected"]["0.05"] == pytest.approx(0.05, abs=0.015)
        # u⁴ ≤ 0.05 with probability 0.05^(1/4) = 0.473
        assert claims["power"]["0.05"] == pytest.approx(0.473, abs=0.03)

    def test_p_values_that_are_not_uniform_are_noticed(self):
        frame = self.frame(np.random.default_rng(0))
        frame["truth_p_value"] **= 2
        assert metrics.claim_metrics(frame)["kolmogorov_smirnov_p"] < 1e-6
        few = frame.assign(held_out_photos=10)  # too few held-out photos to tell
        assert metrics.claim_metrics(few)["kolmogorov_smirnov_p"] > 0.05

    def test_tables_without_p_values_have_none(self):
        frame = self.frame(np.random.default_rng(0))
        assert metrics.claim_metrics(frame.assign(truth_p_value=np.nan)) == {}
        assert metrics.claim_metrics(frame[["other_p_value"]]) == {}
        assert metrics.claim_metrics(frame.assign(truth_p_value="text")) == {}
        assert metrics.claim_metrics(frame.assign(held_out_photos="text")) == {}


class TestRadiusCheck:
    def frame(self, n, inside):
        errors = np.where(np.arange(n) < inside, 50.0, 300.0)
        return pd.DataFrame(
            {
                "error_km": errors,
                "radius_50_km": np.full(n, 100.0),
                "radius_90_km": np.full(n, np.nan),
            }
        )

    @pytest.mark.parametrize(("n", "inside", "contradicted"), [
        (100, 50, False), (100, 42, False), (100, 38, True), (100, 65, True), (10, 3, False),
    ])  # fmt: skip
    def test_coverage_outside_the_binomial_interval_contradicts(self, n, inside, contradicted):
        checks = radii.radius_check(self.frame(n, inside))
        assert list(checks) == ["50"]
        assert checks["50"]["contradicted"] == contradicted
        assert checks["50"]["coverage"] == inside / n

    def test_the_factor_makes_the_radius_right_on_these_photos(self):
        rng = np.random.default_rng(0)
        frame = self.frame(500, 0).assign(error_km=rng.exponential(400, 500))
        factor = radii.radius_check(frame)["50"]["factor"]
        assert (frame["error_km"] <= factor * frame["radius_50_km"]).mean() == pytest.approx(
            0.5, abs=0.01
        )


def test_a_missing_guess_is_a_miss():
    truth = pd.Series(["a", "a", "b"], dtype="str")
    assert metrics.macro_f1(truth, pd.Series(["a", None, "b"], dtype="str")) == pytest.approx(5 / 6)
    assert metrics.macro_f1(truth, pd.Series([None] * 3, dtype="str")) == 0


def test_an_answer_without_a_probability_is_left_out_of_the_curve():
    curve = metrics.reliability_curve([0.95, np.nan, 0.91], [True, False, False])
    assert curve["n"].tolist() == [2]
    assert curve["reached"].tolist() == [0.5]


@pytest.mark.parametrize("n", [1, 2, 10, 87, 350, 4999])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.99])
def test_binomial_range_is_that_of_scipy(n, share):
    low, high = stats.binom.interval(0.95, n, share)
    assert radii.binomial_range(n, share) == (low / n, high / n)
