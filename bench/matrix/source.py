"""YAML as a tree that remembers its lines, so that whatever is wrong with a file can be said with file and line.

ruamel.yaml reads it, by YAML 1.2 (`1e-3` is a number, `yes` and `on` are words). Only plain values pass: no tags, no
merge keys, one document, and bounds on size, nesting and on what aliases expand to.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, error, events, nodes

from bench.errors import InputError
from bench.text import quoted

SIZE_LIMIT_BYTES = 2**20
NODE_LIMIT = 20_000  # aliases count as what they expand to
DEPTH_LIMIT = 16
DIGITS_LIMIT = 40

_CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Scalar = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class Node:
    """A value with the line it starts on; in a mapping, `key_lines` holds the line of every key."""

    value: Scalar | list[Node] | dict[str, Node]
    line: int
    text: str = ""
    key_lines: dict[str, int] = field(default_factory=dict)
    size: int = 1

    @classmethod
    def of(cls, plain: Any) -> Node:
        """The tree of a value that was written in no file: all of it on line 1."""
        if isinstance(plain, Mapping):
            entries = {str(key): cls.of(value) for key, value in plain.items()}
            return cls(value=entries, line=1, key_lines=dict.fromkeys(entries, 1))
        if isinstance(plain, list | tuple):
            return cls(value=[cls.of(value) for value in plain], line=1)
        return cls(value=plain, line=1, text=str(plain))

    def plain(self) -> Any:
        """The same value as lists, dictionaries and scalars."""
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return self.value

    def at(self, path: Iterable[str | int]) -> Node:
        """The node under `path`, or the last one on the way that exists."""
        node = self
        for step in path:
            child = _child(node, step)
            if child is None:
                return node
            node = child
        return node

    def key_line(self, path: Sequence[str | int]) -> int:
        """The line of the key that ends `path`."""
        parent = self.at(path[:-1])
        return parent.key_lines.get(str(path[-1]), parent.line)

    def shown(self) -> str:
        """The value as a message quotes it: text in double quotes, the rest as written, shortened, on one line."""
        if isinstance(self.value, dict):
            return "{…}"
        if isinstance(self.value, list):
            return "[…]" if self.value else "[]"
        if self.value is None:
            return self.text or "(nothing)"
        return quoted(self.value) if isinstance(self.value, str) else self.text


def fault(label: str, line: int, sentence: str) -> InputError:
    """One sentence with its place, on one line whatever the file's words hold."""
    words = " ".join(sentence.split())
    return InputError(f"{label}:{line}: {words if len(words) <= 400 else words[:399] + '…'}")


def read(path: Path, label: str) -> Node:
    """The tree of a file; `label` is what messages call it.

    raises  InputError: not a readable file, too large, or any of `parse`
    """
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT_BYTES + 1)
    except IsADirectoryError:
        raise InputError(f"{label}: this is a folder; name a YAML file in it") from None
    except OSError as error:
        raise InputError(f"{label}: the file cannot be read: {error.strerror}") from None
    return parse(data, label)


def parse(data: bytes, label: str) -> Node:
    """The tree of one YAML document whose top level is a mapping.

    raises  InputError: one sentence, `label:line: …`
    """
    text = _decode(data, label)
    try:
        _check(text, label)
        root = _yaml().compose(io.StringIO(text))
    except error.MarkedYAMLError as fault_:
        mark = fault_.problem_mark or fault_.context_mark
        line = mark.line + 1 if mark else 1
        raise fault(label, line, f"this is not valid YAML: {fault_.problem or fault_}") from None
    if root is None:
        raise InputError(f"{label}:1: the file is empty; a matrix needs at least axes: {{workload: […]}}")
    tree = _Tree(label).node(root)
    if not isinstance(tree.value, dict):
        raise InputError(f"{label}:{tree.line}: the top level must be a mapping with a key axes")
    return tree


def _yaml() -> YAML:
    return YAML(typ="safe", pure=True)


def _decode(data: bytes, label: str) -> str:
    if len(data) > SIZE_LIMIT_BYTES:
        raise InputError(f"{label}: the file is larger than {SIZE_LIMIT_BYTES} bytes, the most a matrix may have")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise InputError(f"{label}:{line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8") from None
    if found := _CONTROL.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise InputError(f"{label}:{line}: control character U+{ord(found[0]):04X} is not allowed; remove it")
    return text


def _child(node: Node, step: str | int) -> Node | None:
    if isinstance(node.value, dict) and isinstance(step, str):
        return node.value.get(step)
    if isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
        return node.value[step]
    return None


def _check(text: str, label: str) -> None:
    """Refuse, event by event and before anything is put together, what no matrix has or what is too much."""
    open_: list[str | None] = []
    anchors: set[str | None] = set()
    count, documents = 0, 0
    for event in _yaml().parse(io.StringIO(text)):
        line = event.start_mark.line + 1 if event.start_mark else 1
        count += isinstance(event, events.NodeEvent)
        documents += isinstance(event, events.DocumentStartEvent)
        if count > NODE_LIMIT:
            raise fault(label, line, _TOO_MANY)
        if documents > 1:
            raise fault(label, line, "a second document begins here; a matrix is one document")
        if getattr(event, "tag", None) is not None:
            shown = quoted(str(event.tag).replace("tag:yaml.org,2002:", "!!"))
            raise fault(label, line, f"tag {shown} is not allowed; write a plain value")
        if isinstance(event, events.AliasEvent) and event.anchor not in anchors:
            anchor = event.anchor
            raise fault(label, line, f"alias *{anchor} stands for nothing before it; define &{anchor} first")
        if isinstance(event, events.CollectionStartEvent):
            open_.append(event.anchor)
            if len(open_) > DEPTH_LIMIT:
                raise fault(
                    label, line, f"nested more than {DEPTH_LIMIT} deep; a matrix needs no more than four levels"
                )
        elif isinstance(event, events.CollectionEndEvent):
            anchors.add(open_.pop())
        elif isinstance(event, events.ScalarEvent):
            anchors.add(event.anchor)


_TOO_MANY = f"more than {NODE_LIMIT} values, aliases expanded; write a smaller matrix"


class _Tree:
    """Nodes of ruamel.yaml to nodes of ours; an alias is the node that it stands for, and counts as all of it."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.made: dict[int, Node] = {}

    def node(self, given: Any) -> Node:
        """One node with all below it."""
        if id(given) in self.made:
            return self.made[id(given)]
        line = given.start_mark.line + 1
        if isinstance(given, nodes.MappingNode):
            made = self.mapping(given, line)
        elif isinstance(given, nodes.SequenceNode):
            items = [self.node(item) for item in given.value]
            made = Node(value=items, line=line, size=1 + sum(item.size for item in items))
        else:
            made = Node(value=self.scalar(given, line), line=line, text=given.value)
        if made.size > NODE_LIMIT:
            raise fault(self.label, line, _TOO_MANY)
        self.made[id(given)] = made
        return made

    def mapping(self, given: Any, line: int) -> Node:
        """Keys are words, each of them once."""
        entries: dict[str, Node] = {}
        lines: dict[str, int] = {}
        for key, value in given.value:
            at = key.start_mark.line + 1
            if not isinstance(key, nodes.ScalarNode):
                raise fault(self.label, at, "a key must be a word, not a list or mapping")
            word = str(key.value)
            if word == "<<":
                raise fault(self.label, at, "merge key << is not supported; write the values out")
            if word in lines:
                first = lines[word]
                raise fault(self.label, at, f"key {quoted(word)} is given twice, first on line {first}; keep one")
            entries[word], lines[word] = self.node(value), at
        size = 1 + sum(entry.size + 1 for entry in entries.values())
        return Node(value=entries, line=line, key_lines=lines, size=size)

    def scalar(self, given: Any, line: int) -> Scalar:
        """Quoted text stays text; of plain words those that YAML 1.2 reads as something else."""
        text = str(given.value)
        kind = str(given.tag).rpartition(":")[2]
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind not in ("int", "float"):
            return text
        value: int | float = _yaml().load(text) if len(text) <= DIGITS_LIMIT else math.inf
        if not math.isfinite(value) or (abs(value) >= 10**18 and kind == "int"):
            raise fault(self.label, line, f"number {quoted(text)} is out of range; write a smaller one")
        return value
