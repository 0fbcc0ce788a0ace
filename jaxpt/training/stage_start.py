"""The beginning of a stage, or of what is left of it: its state, and what each of its steps is given."""

from collections.abc import Callable

import numpy as np

from jaxpt.models.params import Array
from jaxpt.objectives.objective import Progress
from jaxpt.optim.chain import BuiltOptimizer
from jaxpt.training.arguments import StepArguments, step_arguments
from jaxpt.training.extra import begin, make_extra
from jaxpt.training.frozen import NO_PINS, Pins, load_frozen, open_frozen
from jaxpt.training.run_plan import StagePlan
from jaxpt.training.safeguards import Safeguards
from jaxpt.training.state import Layout, State, new_state

NO_SAFEGUARDS = Safeguards()


def begin_stage(
    state: State[Array],
    stage: StagePlan,
    layout: Layout,
    optimizer: BuiltOptimizer,
    seed: int,
    step: int,
    pins: Pins = NO_PINS,
    safeguards: Safeguards = NO_SAFEGUARDS,
) -> tuple[State[Array], Callable[[int], StepArguments[np.generic, Array]], list[str]]:
    """Returns the state to go on with, the arguments of a global step, and lines for the person watching.

    Args:
        state: as the step before left it, or as it was restored.
        stage: the stage that `step` belongs to.
        layout: of the run.
        optimizer: of the model's parameters.
        seed: the run's.
        step: finished steps.
        pins: which models the paths of frozen ones name.
        safeguards: of the run; what they remember starts new with the optimizer, but for the mean of the parameters.

    Raises:
        JaxptError: a frozen model that cannot be read.
    """
    config, objective = stage.config, stage.config.objective
    fresh = step == stage.whole[0] > 0 and config.load == "params"
    if fresh:
        state = new_state(layout, optimizer, state.params)._replace(extra=state.extra, mean=state.mean)
    extra = make_extra(objective, stage.model)
    values, lines = begin(state.extra, extra, layout, seed, fresh=fresh)
    state, of_guards = safeguards.begin(state, layout, optimizer.specs)
    lines += of_guards
    models = open_frozen(objective, f"stage {config.name}, objective {objective.name}", pins)
    own = stage.step.own
    for name, model in models.items():
        same = "; its weights are those that are trained, held once" if name in own else ""
        lines.append(f"frozen model {name}: {model.description}{same}")
    frozen = load_frozen({name: model for name, model in models.items() if name not in own}, layout)

    def arguments(step: int) -> StepArguments[np.generic, Array]:
        progress = Progress(step - stage.whole[0], stage.whole[1] - stage.whole[0], config.tokens_per_step)
        return step_arguments(objective, progress, stage.rate(step), stage.peak, seed=seed, step=step, frozen=frozen)

    return state._replace(extra=values), arguments, [f"stage {config.name}: {line}" for line in lines]
