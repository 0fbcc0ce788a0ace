"""The models that an objective reads and does not train: opened by their paths, laid out by their own axis tables."""

from collections.abc import Mapping

import jax

from jaxpt.models.params import Params, Tree
from jaxpt.models.specs import map_specs, param_specs
from jaxpt.objectives.objective import Objective
from jaxpt.training.starting_point import StartingPoint, open_start
from jaxpt.training.state import Layout, with_shardings


def open_frozen(objective: Objective, where: str = "objective") -> dict[str, StartingPoint]:
    """Opens the models of `objective.frozen()`, by name, without reading their parameters.

    Raises:
        JaxptError: a path where no model is; the message begins with `where`.
    """
    return {
        name: open_start(path, "params", f"{where}: {name}", with_lineage=False)
        for name, path in objective.frozen().items()
    }


def load_frozen(models: Mapping[str, StartingPoint], layout: Layout) -> dict[str, Params]:
    """Returns their parameters in their own dtypes, each device's part read by itself.

    Raises:
        JaxptError: damaged data.
    """
    return {name: m.params(layout.of(param_specs(m.model)), None) for name, m in models.items()}


def abstract_frozen(models: Mapping[str, StartingPoint], layout: Layout) -> dict[str, Tree[jax.ShapeDtypeStruct]]:
    """Returns shapes, dtypes and shardings of their parameters."""
    out: dict[str, Tree[jax.ShapeDtypeStruct]] = {}
    for name, m in models.items():
        specs = param_specs(m.model)
        shapes = map_specs(lambda path, s, m=m: jax.ShapeDtypeStruct(s.shape, m.dtypes.get(path, "float32")), specs)
        out[name] = with_shardings(shapes, layout.of(specs))
    return out
