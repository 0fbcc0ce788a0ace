"""Function calls written as text, `[name(parameter=value), …]`, judged as BFCL's AST categories do.

The rules are those of the Berkeley Function Calling Leaderboard (Patil et al. 2025), "AST evaluation" of Python
functions in prompt mode: a call is right where its function, its parameters, their types and their values are among
those of the ground truth. `+x` is read as x, where BFCL reads -x; arithmetic is computed for numbers and texts only.
"""

import ast
import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxpt.errors import JaxptError, nearest
from jaxpt.evaluation.harness.records import EvaluationRecord
from jaxpt.evaluation.harness.scorer import AnswerScorer

NamedCall = tuple[str, dict[str, Any]]  # name of a function, parameters
TYPES: dict[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}
ABSENT = ""  # among the possible values of a parameter: it may be left out
ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
LARGEST = 10**9  # operand of a multiplication or power, so that an answer cannot keep the scorer busy


@dataclass(frozen=True)
class FunctionCalls(AnswerScorer):
    """Each document has `function` (descriptions, JSON) and `ground_truth` (JSON); null: none is to be called."""

    @property
    def metrics(self) -> Sequence[str]:
        """Whether the calls are right."""
        return ["acc"]

    def check(self, document: EvaluationRecord) -> None:
        """Raises an error for descriptions and a ground truth that do not go together, or a type that is unknown."""
        functions, truth = json.loads(document["function"]), json.loads(document["ground_truth"])
        for calls in () if truth is None else truth:
            ((name, possible),) = calls.items()
            properties = {f["name"]: f["parameters"]["properties"] for f in functions}[name]
            for parameter in possible.keys() & properties.keys():
                described = properties[parameter]
                types = [described["type"], *([described["items"]["type"]] if "items" in described else [])]
                if unknown := [t for t in types if t not in TYPES]:
                    raise JaxptError(f"{name}: {parameter} has the type {unknown[0]!r}{nearest(unknown[0], TYPES)}")

    def score(self, document: EvaluationRecord, answers: Sequence[str]) -> dict[str, float]:
        """Returns whether the calls are among those of the ground truth, or there is none where none is to be."""
        truth, calls = json.loads(document["ground_truth"]), parse(answers[0])
        if truth is None:
            return {"acc": float(not calls)}
        return {"acc": float(calls is not None and matches(calls, json.loads(document["function"]), truth))}

    def gold(self, document: EvaluationRecord) -> str | None:
        """Returns calls that are right, each parameter with the first of its possible values."""
        truth = json.loads(document["ground_truth"])
        return None if truth is None else f"[{', '.join(_written(possible) for possible in truth)}]"


def _written(possible: Mapping[str, Mapping[str, Sequence[Any]]]) -> str:
    ((name, parameters),) = possible.items()
    return f"{name}({', '.join(f'{p}={value!r}' for p, value in _first(parameters).items())})"


def _first(possible: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Of each key the first of its possible values; one that has only ABSENT is left out."""
    given = {k: [v for v in values if v != ABSENT] for k, values in possible.items()}
    return {k: _plainly(values[0]) for k, values in given.items() if values}


def _plainly(value: Any) -> Any:
    """A possible value itself; of a dict, whose values are lists of possible ones, the first of each."""
    if isinstance(value, dict):
        return _first(value)
    return [_plainly(v) for v in value] if isinstance(value, list) else value


def parse(text: str) -> list[NamedCall] | None:
    """Returns the calls of an answer, without executing anything; None where it is no list of calls."""
    text = text.strip("`\n ")
    text = ("" if text.startswith("[") else "[") + text + ("" if text.endswith("]") else "]")
    try:
        body = ast.parse(text, mode="eval").body
        if not isinstance(body, ast.List) or not all(isinstance(e, ast.Call) for e in body.elts):
            return None
        return [_call(element) for element in body.elts if isinstance(element, ast.Call)]
    except (SyntaxError, ValueError, ArithmeticError, TypeError, RecursionError, MemoryError):
        return None


def _call(node: ast.Call) -> NamedCall:
    """A call's name, dotted as it is written, and its named parameters; those without a name do not count."""
    parts, at = [], node.func
    while isinstance(at, ast.Attribute):
        parts.append(at.attr)
        at = at.value
    if isinstance(at, ast.Name):
        parts.append(at.id)
    return ".".join(reversed(parts)), {str(k.arg): _value(k.value) for k in node.keywords}


def _value(node: ast.expr) -> Any:
    """What an expression stands for; names and calls without named parameters stand for their own text."""
    match node:
        case ast.Constant(value=value):
            return "..." if value is Ellipsis else value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant(value=int() | float() as value)):
            return -value if isinstance(sign, ast.USub) else value
        case ast.List(elts=elements):
            return [_value(e) for e in elements]
        case ast.Tuple(elts=elements):
            return tuple(_value(e) for e in elements)
        case ast.Dict(keys=keys, values=values):
            return {_value(k): _value(v) for k, v in zip([k for k in keys if k is not None], values, strict=True)}
        case ast.BinOp(left=left, op=sign, right=right):
            return _computed(ARITHMETIC.get(type(sign)), _value(left), _value(right))
        case ast.Call(keywords=[_, *_]):
            name, parameters = _call(node)
            return {name: parameters}
        case ast.Name() | ast.Call() | ast.Subscript():
            return ast.unparse(node)
    raise ValueError(f"{type(node).__name__} is no value")


def _computed(sign: Callable[[Any, Any], Any] | None, left: Any, right: Any) -> Any:
    numbers = all(isinstance(x, int | float) and abs(x) <= LARGEST for x in (left, right))
    if sign is operator.add and isinstance(left, str) and isinstance(right, str):
        return left + right
    if sign is None or not numbers or (sign is operator.pow and abs(right) > 64):
        raise ValueError("no arithmetic of numbers")
    return sign(left, right)


def matches(
    calls: Sequence[NamedCall], functions: Sequence[Mapping[str, Any]], truth: Sequence[Mapping[str, Any]]
) -> bool:
    """Returns whether calls are those of the ground truth, in any order.

    Args:
        calls: from `parse`.
        functions: descriptions with `name` and `parameters` (`properties`, `required`).
        truth: for each call that is expected `{name: {parameter: [possible values]}}`; an empty text among them: the
            parameter may be left out.
    """
    if len(calls) != len(truth):
        return False
    described = {f["name"]: f["parameters"] for f in functions}
    left = list(calls)
    for expected in truth:  # each takes the first call that fits
        ((name, possible),) = expected.items()
        fitting = next((c for c in left if c[0] == name and _fits(c[1], described[name], possible)), None)
        if fitting is None:
            return False
        left.remove(fitting)
    return True


def _fits(given: Mapping[str, Any], description: Mapping[str, Any], possible: Mapping[str, Sequence[Any]]) -> bool:
    properties = description["properties"]
    if any(name not in given for name in description.get("required", ())):
        return False
    if any(name not in given and ABSENT not in values for name, values in possible.items()):
        return False
    return all(
        name in properties and name in possible and _is_among(value, properties[name], possible[name])
        for name, value in given.items()
    )


def _is_among(given: Any, described: Mapping[str, Any], possible: Sequence[Any]) -> bool:
    """Whether a value has the type that its parameter is described with, and is one of the possible ones."""
    kind = described["type"]
    expected: type = TYPES[kind]
    inner: type | None = TYPES[described["items"]["type"]] if kind in ("array", "tuple") else None
    value: Any = given
    if kind == "tuple" and type(given) is tuple:
        value = list(given)
    if kind == "float" and type(given) is int:
        value = float(given)
    held, known = type(value), next((type(p) for p in possible if p != ABSENT), None)
    if held is not expected:
        return held is known and value in possible  # a variable, whose value the truth writes in another type
    if inner is not None and not any(type(p) is not list or _elements_fit(value, inner, p) for p in possible):
        return False
    if known not in (None, expected):
        return value in possible
    if expected is dict:
        return any(_same_dict(value, p) for p in possible if p != ABSENT)
    if inner is dict:
        return any(len(value) == len(p) and all(_same_dict(v, q) for v, q in zip(value, p)) for p in possible)
    if expected is str:
        return _plain(value) in [_plain(p) for p in possible if type(p) is str]
    if expected is list:
        return [_plain(v) for v in value] in [[_plain(v) for v in p] for p in possible]
    return value in possible


def _elements_fit(value: Sequence[Any], inner: type, possible: Sequence[Any]) -> bool:
    known = next((type(p) for p in possible if p != ABSENT), None)
    return all(type(v) is inner or type(v) is known for v in value)


def _same_dict(value: Any, possible: Any) -> bool:
    """Whether a dict has of each key one of the possible values; those of which one is ABSENT may be left out."""
    if not isinstance(value, dict) or not isinstance(possible, dict):
        return False
    return all(k in possible and _plain(v) in [_plain(p) for p in possible[k]] for k, v in value.items()) and all(
        k in value or ABSENT in values for k, values in possible.items()
    )


def _plain(value: Any) -> Any:
    """A text without case, spaces and the signs that dates and names are written with; anything else as it is."""
    return re.sub(r"[ ,./\-_*^]", "", value).lower().replace("'", '"') if type(value) is str else value
