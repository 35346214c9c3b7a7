"""Measured comparisons: ``python -m train benchmark NAME``."""

BENCHMARKS = {
    name: (f"train.benchmarks.{name}", summary)
    for name, summary in {
        "ablation": "Measure what heads, context, pretraining and smoothing are worth.",
        "answers": "Measure levels, claims, hints, and pictures unlike the training photos.",
        "selection": "Score the recipe mini-plain with settings chosen anew in each fold.",
        "engines": "Time a backbone in torch, in torch by parts, and in ONNX Runtime.",
        "explanation": "Measure whether the parts marked as reasons matter more than others.",
        "gallery": "Compare a query of the published GeoCLIP package with ours.",
        "tables": "Time reading, splitting and labelling a dataset against pandas' own read.",
    }.items()
}
"""Name -> module of the function of that name, and what it measures."""
