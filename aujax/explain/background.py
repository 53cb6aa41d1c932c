"""What a reader must know about the model behind the explanations: where it comes from, and how often it is right."""

import json
from typing import Any, NamedTuple

import aujax
from aujax import codebook
from aujax.explain.model import Model

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


class Record(NamedTuple):
    """How often the model was right when it called a face an expression: `right` of `count` faces of a split."""

    right: int
    count: int


class Background(NamedTuple):
    """The model in data and in words; `records` are by expression, {} where it was not evaluated on a test split."""

    facts: dict[str, Any]
    lines: list[str]
    records: dict[str, Record]


def background(model: Model, *, warped: bool) -> Background:
    """Returns what the run folder says about the model, whose faces were warped by five points or taken as they are."""
    run, config = model.run, model.run.config
    layer = run.model.method.aligned(config.au_layers)[-1]
    facts = {
        "workdir": str(model.workdir or ""),
        "method": config.method,
        "au_weight": config.au_weight,
        "codebook": config.codebook,
        "aus": {name: list(numbers) for name, numbers in codebook.load(config.codebook).aus.items()},
        "attention_layer": layer,
        "checkpoint": run.checkpoint,
        "temperature": model.temperature,
        "align": "five-point" if warped else "none",
        "aujax": aujax.__version__,
    }
    cues = f"with action-unit cues (weight {config.au_weight:g})" if config.au_weight else "without action-unit cues"
    lines = [
        f"Model: `{model.workdir or config.method}`, method {config.method}, trained {cues}, {config.picture_size} "
        f"pixels a side, codebook {config.codebook}; the attention is that of its layer `{layer}`.",
        "Faces are turned and scaled so that eyes, nose and mouth come to fixed places."
        if warped
        else "Photographs are taken whole, as the model's training data were.",
        f"Training data: `{run.manifest['data'].get('dir') or run.manifest['data'].get('name') or 'unknown'}`.",
    ]
    if model.temperature != 1.0:
        lines.append(f"Probabilities are calibrated: logits are divided by {model.temperature:.2f}.")
    metrics = _test(model)
    if not metrics:
        return Background(
            facts, [*lines, "It was not evaluated on a test split: how often it is right is unknown."], {}
        )
    lines.append(
        f"On the {metrics['num_examples']} faces of its test split it was right for {100 * metrics['cl']:.0f} %."
    )
    columns = zip(metrics["expressions"], zip(*metrics["confusion_matrix"], strict=True), strict=True)
    records = {name: Record(column[k], sum(column)) for k, (name, column) in enumerate(columns)}
    return Background(facts, lines, records)


def _test(model: Model) -> dict[str, Any]:
    """Returns metrics.json of the test split, {} if there is none that can be read."""
    path = model.workdir and model.workdir / "eval" / "test" / "metrics.json"
    try:
        return json.loads(path.read_text()) if path else {}
    except (OSError, ValueError):
        return {}
