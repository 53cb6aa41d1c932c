"""The update rule and its learning rate, as functions of the options."""

import optax

from aujax.config import Config, OptimizerConfig
from aujax.errors import UserError

MIN_LEARNING_RATE = 1e-7  # of schedule "step", as in the released code


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
            end_value=MIN_LEARNING_RATE,
        ),
        "cosine": optax.cosine_decay_schedule(rate, max(1, epochs * steps_per_epoch - warmup)),
    }[options.schedule]
    if not warmup:
        return after_warmup
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), after_warmup], [warmup])


def sgd(options: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns SGD as torch computes it: decay is added to the gradient, then Nesterov momentum, then the rate."""
    return optax.chain(
        optax.add_decayed_weights(options.weight_decay),
        optax.sgd(schedule, momentum=options.momentum, nesterov=options.momentum > 0),
    )


OPTIMIZERS = {"sgd": sgd}


def make_optimizer(options: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns the update rule `options.name`, a row of `OPTIMIZERS`, after clipping of the whole gradient.

    Raises:
      UserError: there is no such row.
    """
    if options.name not in OPTIMIZERS:
        raise UserError(f"--config.optimizer.name: expected one of {', '.join(OPTIMIZERS)}, got {options.name!r}")
    clip = optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity()
    return optax.chain(clip, OPTIMIZERS[options.name](options, schedule))


def optimizer_of(config: Config, steps_per_epoch: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns the gradient transformation of a run, and its learning rate as a function of the step."""
    schedule = learning_rate(config.optimizer, epochs=config.epochs, steps_per_epoch=steps_per_epoch)
    return make_optimizer(config.optimizer, schedule), schedule
