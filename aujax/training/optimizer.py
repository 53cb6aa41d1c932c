"""The update rule and its rate, as functions of the options."""

import optax

from aujax.config import OptimizerConfig

LEAST_LEARNING_RATE = 1e-7


def learning_rate(options: OptimizerConfig, *, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Returns the rate as a function of the step: linear warm-up, then constant, in steps, or half a cosine."""
    warmup = round(options.warmup_epochs * steps_per_epoch)
    rate = options.learning_rate
    after_warmup = {
        "constant": optax.constant_schedule(rate),
        "step": optax.exponential_decay(
            rate,
            options.step_epochs * steps_per_epoch,
            options.step_factor,
            staircase=True,
            end_value=LEAST_LEARNING_RATE,
        ),
        "cosine": optax.cosine_decay_schedule(rate, max(1, epochs * steps_per_epoch - warmup)),
    }[options.schedule]
    if not warmup:
        return after_warmup
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), after_warmup], [warmup])


def make_optimizer(options: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns SGD as torch computes it: decay joins the gradient, then Nesterov momentum, then the rate."""
    clip = optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity()
    return optax.chain(
        clip,
        optax.add_decayed_weights(options.weight_decay),
        optax.sgd(schedule, momentum=options.momentum, nesterov=options.momentum > 0),
    )
