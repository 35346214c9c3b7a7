"""Benchmarks: ``python -m train benchmark NAME``."""

BENCHMARKS = {"all": ("train.benchmarks.overview", "Compare speed and memory, in one table.")} | {
    name: (f"train.benchmarks.{name}", summary)
    for name, summary in {
        "ablation": "Measure the effect of heads, context, pretraining and smoothing.",
        "attack": "Attack readers, trainings and the app with damaged files, kills and sessions.",
        "answers": "Measure levels, claims, hints, and pictures unlike the training photos.",
        "selection": "Score the recipe mini-plain with settings chosen within each fold.",
        "engines": "Time a backbone in torch, in torch in parts, and in ONNX Runtime.",
        "explanation": "Measure whether the marked parts of photos matter more than others.",
        "extend": "Measure what the photos of one area add to a bank of others.",
        "gallery": "Compare the published GeoCLIP package with this one on a query.",
        "heads": "Time the training of heads on cached embeddings, and the calibration after it.",
        "rehearsal": "Draw a set of the size of OSV-Mini-129k, train, evaluate: time and memory.",
        "tables": "Time reading, splitting and labelling a dataset against pandas alone.",
    }.items()
}
"""Name -> module of the function with that name, and its summary."""
