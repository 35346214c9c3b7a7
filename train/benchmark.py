"""Measured comparisons: ratios in one run, on the machine at hand."""

from collections.abc import Sequence

from train.dispatch import dispatch

BENCHMARKS = {
    "ablation": "what heads, context, pretraining and smoothing are worth on a dataset",
    "selection": "what a bundled model scores if its settings never saw the test photos",
    "engines": "what runs a backbone on this computer: torch, torch in parts, ONNX Runtime",
    "explanation": "whether the parts marked as reasons matter more than other parts",
    "gallery": "one GeoCLIP query, the published package's own predict against ours",
    "tables": "reading, splitting and labelling 119,008 rows against pandas' own read",
}


def main(arguments: Sequence[str]) -> int:
    """Run one benchmark and return its exit status."""
    return dispatch("python -m train benchmark", "train.benchmarks", BENCHMARKS, arguments)
