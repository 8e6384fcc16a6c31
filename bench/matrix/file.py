"""Read a matrix file: find it, validate it, and say what is wrong in one sentence with file and line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from bench.errors import InputError
from bench.matrix import source
from bench.matrix.model import BudgetGiven, Framework, MatrixFile, TelemetryGiven
from bench.text import quoted
from workloads.contract import AXES

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from bench.matrix.source import Node

BUILT_IN_FOLDER = Path(__file__).parent


def built_in() -> tuple[str, ...]:
    """The names of the matrices that travel with the package."""
    return tuple(sorted(path.stem for path in BUILT_IN_FOLDER.glob("*.yaml")))


def advice(word: str, choices: Sequence[str]) -> str:
    """The near match of a misspelt word, or everything there is to choose from."""
    near = difflib.get_close_matches(word, choices, n=1)
    if near:
        return f'did you mean "{near[0]}"?'
    *most, last = choices
    return f"choose {', '.join(most)} or {last}" if most else f"choose {last}"


@dataclass(frozen=True, kw_only=True)
class Document:
    """A matrix file as read: its model, and its tree for the lines."""

    label: str
    name: str
    tree: Node
    file: MatrixFile

    def error(self, path: Sequence[str | int], sentence: str, *, key: bool = False) -> InputError:
        """One sentence with file and line: of the value at `path`, or of its key."""
        line = self.tree.key_line(path) if key else self.tree.at(path).line
        return source.fault(self.label, line, sentence)


def find(name_or_path: str) -> tuple[Path, str]:
    """The file of a built-in name or a path, and what messages call it.

    raises  InputError: there is no such file
    """
    if name_or_path in built_in():
        return BUILT_IN_FOLDER / f"{name_or_path}.yaml", f"{name_or_path}.yaml"
    path = Path(name_or_path)
    try:
        exists = bool(name_or_path) and path.exists()
    except (OSError, ValueError):
        exists = False
    if not exists:
        raise InputError(
            f"matrix {quoted(name_or_path)} is neither a file nor built in; {advice(name_or_path, built_in())}"
        )
    return path, " ".join(name_or_path.split())


def read(given: str | Mapping[str, Any]) -> Document:
    """Read and validate a matrix: a built-in one, a file, or a mapping that is written like a file.

    raises  InputError: the first thing wrong with it, one sentence with file and line
    """
    if isinstance(given, Mapping):
        return validate(source.Node.of(given), label="matrix", stem="matrix")
    path, label = find(given)
    return validate(source.read(path, label), label=label, stem=path.stem)


def validate(tree: Node, *, label: str, stem: str) -> Document:
    """The model of a tree."""
    try:
        file = MatrixFile.model_validate(tree.plain())
    except ValidationError as error:
        details = error.errors(include_url=False)
        line, sentence = min((_place(tree, one), _sentence(tree, one)) for one in _worst(details))
        raise source.fault(label, line, sentence) from None
    name = file.name or re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-_")[:64] or "matrix"
    return Document(label=label, name=name, tree=tree, file=file)


def _worst(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """What is there and wrong comes before what is missing: a misspelt key is both."""
    return [one for one in details if one["type"] != "missing"] or details


def _place(tree: Node, error: ErrorDetails) -> int:
    path = error["loc"]
    return tree.key_line(path) if error["type"] == "extra_forbidden" else tree.at(path).line


def _sentence(tree: Node, error: ErrorDetails) -> str:
    path, kind = error["loc"], error["type"]
    node, word = tree.at(path), _word(path)
    ctx = error.get("ctx", {})
    match kind:
        case "extra_forbidden":
            sentence = _unknown_key(path)
        case "missing":
            sentence = f'{_kind_of_key(path)} "{path[-1]}" is missing; add it'
        case "choice":
            sentence = f"{word} {node.shown()} is unknown; {advice(node.text, ctx['choices'])}"
        case "too_short":
            sentence = f'{_kind_of_key(path)} "{word}" is empty; give at least one value'
        case "value_error":
            sentence = f"{word} {ctx['error']!s}"
        case "list_type":
            sentence = f'"{word}" must be a list; write [{node.text or "…"}]'
        case "model_type" | "dict_type":
            sentence = f'"{word}" must be a mapping, not {node.shown()}; write {{key: value}}'
        case "string_type" if isinstance(node.value, bool | int | float):
            sentence = f'{word} {node.text} is read as a number or truth value; put it in quotes: "{node.text}"'
        case _:
            sentence = f"{word} {node.shown()} {_demand(error, word)}"
    return sentence


def _word(path: Sequence[str | int]) -> str:
    """The key that the value at `path` belongs to; a name belongs to its workload or framework."""
    words = [step for step in path if isinstance(step, str) and step in _WORDS]
    if words[-1:] == ["name"] and len(words) > 1:
        words.pop()
    return words[-1] if words else "matrix"


def _demand(error: ErrorDetails, word: str) -> str:
    ctx = error.get("ctx", {})
    demands = {
        "int_type": "must be a whole number, unquoted",
        "float_type": "must be a number, unquoted",
        "string_type": "must be text",
        "greater_than_equal": f"must be at least {ctx.get('ge')}",
        "greater_than": f"must be more than {ctx.get('gt')}",
        "less_than_equal": f"must be at most {ctx.get('le')}",
        "less_than": f"must be less than {ctx.get('lt')}",
        "string_pattern_mismatch": _PATTERNS.get(word, f"must match {ctx.get('pattern')}"),
    }
    return demands.get(error["type"], error["msg"].removeprefix("Input "))


_PATTERNS = {
    "name": "must be at most 64 letters, digits, dots, dashes and underscores, the first a letter or digit",
    "version": "must be a release such as 2.13.0",
    "image": "must be the name or digest of a container image",
}
_KEYS: dict[str, Sequence[str]] = {
    "matrix": tuple(MatrixFile.model_fields),
    "axis": AXES,
    "budget": tuple(BudgetGiven.model_fields),
    "telemetry": tuple(TelemetryGiven.model_fields),
    "framework": tuple(Framework.model_fields),
}
_WORDS = {word for words in _KEYS.values() for word in words}


def _container(path: Sequence[str | int]) -> str:
    """What the last step of `path` is a key of: a matrix, an axis, a budget or a framework."""
    parents = [step for step in path[:-1] if isinstance(step, str)]
    if not parents:
        return "matrix"
    return "axis" if parents[-1] in {"axes", "include", "exclude"} else parents[-1]


def _unknown_key(path: Sequence[str | int]) -> str:
    container, word = _container(path), str(path[-1])
    if container == "matrix" and word in AXES:
        return f'key "{word}" is an axis; write it under axes'
    return f"{_kind_of_key(path)} {quoted(word)} is unknown; {advice(word, _KEYS.get(container, AXES))}"


def _kind_of_key(path: Sequence[str | int]) -> str:
    container = _container(path)
    return {"matrix": "key", "axis": "axis"}.get(container, f"{container} key")
