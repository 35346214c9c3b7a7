"""Benchmarks: ``python -m train benchmark NAME``."""

_MODULES = {
    "all": ("overview", "Compare speed and memory, in one table."),
    "ablation": ("ablation", "Measure the effect of heads, context, pretraining and smoothing."),
    "attack": (
        "attack",
        "Attack readers, trainings and the app with damaged files, kills and sessions.",
    ),
    "answers": (
        "answers",
        "Measure levels, claims, hints, and pictures unlike the training photos.",
    ),
    "selection": ("bank", "Score the recipe mini-plain with settings chosen within each fold."),
    "engines": ("speed", "Time a backbone in torch, in torch in parts, and in ONNX Runtime."),
    "explanation": (
        "explanation",
        "Measure whether the marked parts of photos matter more than others.",
    ),
    "extend": ("bank", "Measure what the photos of one area add to a bank of others."),
    "gallery": ("speed", "Compare the published GeoCLIP package with this one on a query."),
    "heads": (
        "speed",
        "Time the training of heads on cached embeddings, and the calibration after it.",
    ),
    "rehearsal": (
        "rehearsal",
        "Draw a set of the size of OSV-Mini-129k, train, evaluate: time and memory.",
    ),
    "tables": (
        "rehearsal",
        "Time reading, splitting and labelling a dataset against pandas alone.",
    ),
}
BENCHMARKS = {
    name: (f"{__name__}.{module}", summary) for name, (module, summary) in _MODULES.items()
}
"""Name -> module of the function with that name, and its summary."""
