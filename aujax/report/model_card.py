"""What a network is for, what it is not for, and under which conditions it may be used: the lines of its model card."""

from aujax.report import intervals, provenance
from aujax.report.intervals import Measured

_LICENCES = {
    "rafdb": "RAF-DB is for non-commercial research, by agreement with its authors, and is not redistributed.",
    "affectnet": "AffectNet is for non-commercial research, by agreement with its authors, and is not redistributed.",
    "synthetic": "The faces are drawn by aujax itself: nobody is in them, and they are under the MIT licence.",
    "folder": "A folder of somebody's own: its licence, and the consent of the people in it, are theirs to state.",
}
_UNKNOWN = "The licence of the data is not known here: ask whoever prepared them."
_DLIB = (
    "If landmarks were found by dlib's 68-point predictor: it was trained on iBUG 300-W, whose licence excludes "
    "commercial use, and networks trained on its landmarks inherit the question."
)


def lines(one: Measured) -> list[str]:
    """Returns the model card of a run, a line per subject."""
    config, metrics = one.run.config, one.run.metrics
    name = metrics["data"].get("about", {}).get("name", "")
    weights = config.get("weights", "")
    landmarks = "They were drawn with the faces." if name == "synthetic" else _DLIB
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
        f"**Data.** {f'Data set `{name}`. ' if name else ''}{_LICENCES.get(name, _UNKNOWN)}",
        f"**Landmarks.** {landmarks}",
        "**Weights.** "
        + (f"Training began from `{weights}`, under its own licence." if weights else "Trained from scratch.")
        + " aujax itself is under the MIT licence.",
        "**Limits.** An AU map is drawn from the label and a general table, not from what this very face shows: a map "
        "that agrees with it is plausible, which is not to say that the decision rests on it. Faces unlike those of "
        "the data (age, skin, pose, light, illness, make-up) may be recognised worse than these numbers say.",
    ]
