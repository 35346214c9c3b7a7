"""Accuracy of the context heads (climate, month, state, county, city, ...).

A photo whose truth is missing is left out. A photo whose truth exists but was never seen in
training (a town of the test split alone) has no class: it is left out of the ordinary numbers,
counted as ``unseen``, and counted as wrong in ``top1_with_unseen``.
"""

from typing import Any

import numpy as np
import pandas as pd

TOP_KS = (1, 3, 5)
#: Smallest probability in a log loss, that of a float32: a model that says "never" and is wrong
#: is punished by 16 nats, not by infinity.
SMALLEST = float(np.finfo(np.float32).eps)


def rank_hits(frame: pd.DataFrame, feature: str) -> dict[str, np.ndarray]:
    """``top1``, ``top3``, ``top5``: (n,) floats, 1 if the truth is in the first k, NaN unknown."""
    rank = frame[f"{feature}_rank"].astype("Float64").to_numpy(np.float64, na_value=np.nan)
    known = np.isfinite(rank)
    return {f"top{k}": np.where(known, (rank <= k).astype(np.float64), np.nan) for k in TOP_KS}


def unseen(frame: pd.DataFrame, feature: str) -> np.ndarray:
    """(n,) bool: the dataset names the truth, but the vocabulary of the model does not hold it."""
    missing = frame[f"{feature}_truth"].isna().to_numpy()
    key = f"{feature}_key"
    if key in frame:
        return missing & frame[key].notna().to_numpy()
    if feature in frame:  # climate and month are class indices; negative is unknown
        values = pd.to_numeric(frame[feature], errors="coerce").to_numpy(np.float64, na_value=-1.0)
        return missing & (values >= 0)
    return np.zeros(len(frame), dtype=bool)


def head_metrics(frame: pd.DataFrame, feature: str) -> dict[str, Any]:
    """Numbers of one head.

    Returns:
        ``n`` photos counted, ``unseen``, ``top1``, ``top3``, ``top5``, ``top1_with_unseen``,
        ``macro_f1`` (:func:`macro_f1`), ``log_loss`` (mean −ln p of the truth, nats),
        ``expected_calibration_error`` (:func:`expected_calibration_error`) and ``majority``
        (share of the commonest true class among these photos: what always saying it would give).
        Numbers are None where no photo is known.
    """
    truth = frame[f"{feature}_truth"]
    known = truth.notna().to_numpy()
    n, n_unseen = int(known.sum()), int(unseen(frame, feature).sum())
    report: dict[str, Any] = {"n": n, "unseen": n_unseen}
    names = ("top1", "top3", "top5", "top1_with_unseen", "macro_f1", "log_loss")
    if n == 0:
        return report | dict.fromkeys((*names, "expected_calibration_error", "majority"))
    for name, hits in rank_hits(frame, feature).items():
        report[name] = float(np.nanmean(hits))
    report["top1_with_unseen"] = report["top1"] * n / (n + n_unseen)
    rows = frame[known]
    report["macro_f1"] = macro_f1(rows[f"{feature}_truth"], rows[f"{feature}_top1"])
    own = rows[f"{feature}_truth_probability"].to_numpy(np.float64)
    report["log_loss"] = float(np.mean(-np.log(np.clip(own, SMALLEST, 1.0))))
    hit = (rows[f"{feature}_truth"] == rows[f"{feature}_top1"]).to_numpy()
    report["expected_calibration_error"] = expected_calibration_error(
        rows[f"{feature}_probability"].to_numpy(np.float64), hit
    )
    report["majority"] = float(truth.value_counts(normalize=True).iloc[0])
    return report


def macro_f1(truth: pd.Series, guess: pd.Series) -> float:
    """Mean over classes of F1 = 2·TP / (2·TP + FP + FN).

    The classes are those that occur as truth or as guess among the rows (as in scikit-learn's
    ``f1_score(average="macro")``), each with the same weight however rare.
    """
    truth, guess = truth.astype(object).to_numpy(), guess.astype(object).to_numpy()
    codes, classes = pd.factorize(np.concatenate([truth, guess]))
    if not len(classes):
        return float("nan")
    true, said = codes[: len(truth)], codes[len(truth) :]
    hits = np.bincount(true[true == said], minlength=len(classes))
    total = np.bincount(true, minlength=len(classes)) + np.bincount(said, minlength=len(classes))
    return float(np.mean(2 * hits / total))


def reliability_curve(probability: np.ndarray, hit: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """Claimed against reached accuracy in equal-width bins of the claimed probability.

    Returns:
        One row per bin that holds a photo: ``low``, ``high`` (edges), ``claimed`` (mean
        probability), ``reached`` (share right), ``n``.
    """
    probability = np.clip(np.asarray(probability, dtype=np.float64), 0.0, 1.0)
    index = np.minimum((probability * bins).astype(int), bins - 1)
    n = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        claimed = np.bincount(index, probability, minlength=bins) / n
        reached = np.bincount(index, np.asarray(hit, dtype=np.float64), minlength=bins) / n
    edges = np.linspace(0, 1, bins + 1)
    curve = pd.DataFrame(
        {"low": edges[:-1], "high": edges[1:], "claimed": claimed, "reached": reached, "n": n}
    )
    return curve[curve["n"] > 0].reset_index(drop=True)


def expected_calibration_error(
    probability: np.ndarray, hit: np.ndarray, bins: int = 10
) -> float | None:
    """Mean distance of claimed and reached accuracy over bins, weighted by photos.

    ECE of Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    curve = reliability_curve(probability, hit, bins)
    if curve.empty:
        return None
    gap = (curve["claimed"] - curve["reached"]).abs()
    return float((gap * curve["n"]).sum() / curve["n"].sum())


def confusion_counts(
    frame: pd.DataFrame, feature: str, limit: int = 30
) -> tuple[pd.DataFrame, int]:
    """Counts of (true class, guessed class), commonest true classes first.

    Args:
        frame: a predictions table.
        feature: the head.
        limit: classes kept; the rest are summed up as "other".

    Returns:
        A square table (rows truth, columns guess) and the number of classes that were summed up.
    """
    rows = frame.loc[frame[f"{feature}_truth"].notna(), [f"{feature}_truth", f"{feature}_top1"]]
    truth, guess = (rows[column].astype(object) for column in rows)
    order = truth.value_counts().add(guess.value_counts() * 1e-6, fill_value=0)
    order = order.sort_values(ascending=False, kind="stable").index
    kept, dropped = list(order[:limit]), max(0, len(order) - limit)
    if dropped:
        truth, guess = (s.where(s.isin(kept), "other") for s in (truth, guess))
        kept = [*kept, "other"]
    table = pd.crosstab(truth, guess).reindex(index=kept, columns=kept, fill_value=0)
    return table.rename_axis(index="truth", columns="guess"), dropped


def confused_pairs(frame: pd.DataFrame, feature: str, limit: int = 20) -> pd.DataFrame:
    """The commonest mistakes of a head: ``truth``, ``guess``, ``n``, ``share`` of that truth.

    Pairs with equally many photos are in alphabetical order.
    """
    truth, guess = f"{feature}_truth", f"{feature}_top1"
    rows = frame.loc[frame[truth].notna(), [truth, guess]].astype(object)
    totals = rows[truth].value_counts()
    wrong = rows[rows[truth] != rows[guess]]
    pairs = wrong.groupby([truth, guess]).size().reset_index(name="n")
    pairs = pairs.rename(columns={truth: "truth", guess: "guess"})
    pairs = pairs.sort_values(["n", "truth", "guess"], ascending=[False, True, True]).head(limit)
    pairs["share"] = pairs["n"] / pairs["truth"].map(totals).astype(float)
    return pairs.reset_index(drop=True)
