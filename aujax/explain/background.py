"""What a reader must know about the model behind the explanations: where it comes from, and how often it is right."""

import json
from typing import Any, NamedTuple

import numpy as np

import aujax
from aujax import codebook
from aujax.explain.model import Model
from aujax.statistics import Interval, accuracy_interval

RESPONSIBLE_USE = (
    "**This is not a diagnosis, and no measure of a person.** It says what one trained network computes from one "
    "picture, right or wrong.",
    "**Expressions are not emotions.** A face that a network calls Sadness need not belong to a person who is sad, and "
    "the labels it learned from are opinions of those who looked at photographs.",
    "**Plausible is not causal.** That the attention lies where an expert would look does not say that it decided. "
    "What hiding a region does is closer to a cause, but a hidden region is also an unusual picture.",
    "**Use it with the consent of those shown.** Emotion recognition at work and in education is forbidden in the "
    "European Union (AI Act, Article 5(1)(f)).",
)


_SPLIT = "test"
# What that split was to the choice of the checkpoint, by the run's protocol.
_PROTOCOLS = {
    "heldout": "which had no part in choosing the checkpoint",
    "paper": "on which the checkpoint was chosen, so that it may be right less often on others",
}


class Record(NamedTuple):
    """How often the model was right when it called a face an expression: `right` of `count` faces of a split."""

    right: int
    count: int

    @property
    def share(self) -> Interval:
        """The share of right answers with Wilson's 95 % interval, which takes faces to be of different people."""
        return accuracy_interval(np.arange(self.count) < self.right)

    @property
    def percent(self) -> str:
        """The share in words, such as "80 % [49, 94]"; "none" of no faces."""
        if not self.count:
            return "none"
        share, low, high = (f"{100 * (part or 0.0):.0f}" for part in self.share)
        return f"{share} % [{low}, {high}]"

    def sentence(self, expression: str) -> str:
        """What is known of the answer `expression`; "" where it was never given."""
        if not self.count:
            return ""
        faces = "the one face" if self.count == 1 else f"the {self.count} faces"
        return f"Of {faces} of the {_SPLIT} split that this model called {expression}, {self.percent} were labelled so."


class Background(NamedTuple):
    """The model in data and in words; `records` are by expression, {} where it was not evaluated on a test split."""

    facts: dict[str, Any]
    lines: list[str]
    records: dict[str, Record]


def background(model: Model, *, warped: bool, keeps_cut_out: bool = False) -> Background:
    """Returns what the run folder says about the model, whose faces were warped by five points or taken as they are.

    `keeps_cut_out`: only those were warped that did not fill their photograph.
    """
    run, config = model.run, model.run.config
    layer = run.model.method.aligned(config.au_layers)[-1]
    facts: dict[str, Any] = {
        "workdir": str(model.workdir or ""),
        "method": config.method,
        "au_weight": config.au_weight,
        "codebook": config.codebook,
        "aus": {name: list(numbers) for name, numbers in codebook.load(config.codebook).aus.items()},
        "attention_layer": layer,
        "checkpoint": run.checkpoint,
        "temperature": model.temperature,
        "align": ("five-point unless cut out" if keeps_cut_out else "five-point") if warped else "none",
        "notes": list(model.notes),
        "aujax": aujax.__version__,
    }
    cues = f"with action-unit cues (weight {config.au_weight:g})" if config.au_weight else "without action-unit cues"
    lines = [
        f"Model: `{model.workdir or config.method}`, method {config.method}, trained {cues}, {config.input_size} "
        f"pixels a side, codebook {config.codebook}; the attention is that of its layer `{layer}`.",
        _alignment(warped, keeps_cut_out),
        f"Training data: `{run.manifest['data'].get('dir') or run.manifest['data'].get('name') or 'unknown'}`.",
    ]
    if model.temperature != 1.0:
        lines.append(f"Probabilities are calibrated: logits are divided by {model.temperature:.2f}.")
    found = _evaluated(model)
    facts["evaluation"] = found and found[0]
    words = f"This checkpoint was not evaluated on a {_SPLIT} split: how often it is right is unknown."
    return Background(facts, [*lines, *model.notes, found[1] if found else words], found[2] if found else {})


def _alignment(warped: bool, keeps_cut_out: bool) -> str:
    if not warped:
        return "Photographs are taken whole, as the model's training data were."
    words = "Faces are turned and scaled so that eyes, nose and mouth come to fixed places."
    if keeps_cut_out:
        words += " A photograph that its only face fills is taken whole: the model was trained on such pictures."
    return words


def _evaluated(model: Model) -> tuple[dict[str, Any], str, dict[str, Record]] | None:
    """Returns the model's evaluation in data, in words and by expression; None without one of this checkpoint."""
    metrics = _metrics(model)
    names, matrix = metrics.get("expressions"), metrics.get("confusion_matrix")
    checkpoint = metrics.get("checkpoint")
    step = checkpoint.get("step") if isinstance(checkpoint, dict) else None
    if step != model.run.checkpoint["step"] or not _is_square(matrix, names):
        return None
    columns = list(zip(*metrics["confusion_matrix"], strict=True))
    records = {name: Record(columns[k][k], sum(columns[k])) for k, name in enumerate(metrics["expressions"])}
    every = Record(sum(one.right for one in records.values()), sum(one.count for one in records.values()))
    protocol, interval = str(metrics.get("protocol", model.run.config.model_selection)), every.share
    facts = {"split": _SPLIT, "protocol": protocol, "num_examples": every.count}
    facts |= {"accuracy": interval.value, "low": interval.low, "high": interval.high}
    words = (
        f"Of the {every.count} faces of its {_SPLIT} split, {_PROTOCOLS.get(protocol, 'of unknown use in training')} "
        f"(protocol `{protocol}`), it was right for {every.percent}. Brackets hold Wilson's 95 % intervals, which take "
        "faces to be of different people."
    )
    return facts, words, records


def _is_square(matrix: Any, names: Any) -> bool:
    """Whether the counts are there, one row and one column for each name."""
    if not isinstance(matrix, list) or not isinstance(names, list) or len(matrix) != len(names):
        return False
    return all(isinstance(row, list) and len(row) == len(names) for row in matrix)


def _metrics(model: Model) -> dict[str, Any]:
    """Returns metrics.json of the split, {} if there is none that can be read."""
    path = model.workdir and model.workdir / "eval" / _SPLIT / "metrics.json"
    try:
        content = json.loads(path.read_text()) if path else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
