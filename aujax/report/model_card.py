"""What a network is for, what it is not for, and under which conditions it may be used: the lines of its model card."""

from aujax.report import intervals, provenance
from aujax.report.intervals import Measured

_UNKNOWN = "The licence of the data is not known here: ask whoever prepared them."
_UNKNOWN_LANDMARKS = "The terms of the landmarks are not known here: ask whoever prepared the data."


def lines(one: Measured) -> list[str]:
    """Returns the model card of a run, a line per subject."""
    config, metrics = one.run.config, one.run.metrics
    about = metrics["data"].get("about", {})
    name = about.get("name", "")
    weights = config.get("weights", "")
    backbone = f" on `{config['backbone']}`" if "backbone" in config else ""
    classes = ", ".join(metrics["expressions"])
    return [
        f"**Model.** `{metrics['method']}`{backbone}, trained with AU weight {metrics['au_weight']:g}; it names one of "
        f"{len(metrics['expressions'])} expressions: {classes}.",
        "**Intended use.** Research on how classifiers of facial expressions decide, and on explanations that experts "
        "can check against facial action units.",
        "**Not intended.** Judging people, diagnosis, or guessing what somebody feels: expressions "
        "are not emotions, and labels of photographs are opinions. Emotion recognition at work and in education is "
        "forbidden in the European Union (AI Act, Article 5(1)(f)).",
        f"**Measured.** Accuracy {intervals.percent(one.accuracy)} % on {metrics['num_examples']} faces "
        f"({one.label}). {provenance.protocol(one.run)}",
        f"**Data.** {f'Data set `{name}`. ' if name else ''}{about.get('terms', _UNKNOWN)}",
        f"**Landmarks.** {about.get('detector_terms', _UNKNOWN_LANDMARKS)}",
        "**Weights.** "
        + (f"Training began from `{weights}`, under its own licence." if weights else "Trained from scratch.")
        + " aujax itself is under the MIT licence.",
        "**Limits.** An AU map is drawn from the label and a general table, not from what this very face shows: a map "
        "that agrees with it is plausible, which is not to say that the decision rests on it. Faces unlike those of "
        "the data (age, skin, pose, light, illness, make-up) may be recognised worse than these numbers say.",
    ]
