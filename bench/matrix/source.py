"""YAML as a tree that remembers its lines, so that whatever is wrong with a file can be said with file and line.

Values follow YAML 1.2's core schema (`1e-3` is a number, `yes` and `on` are words), written out here because PyYAML's
own resolver is 1.1. Only plain values pass: no tags, no merge keys, one document, and bounds on size, nesting and
on what aliases expand to.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bench.errors import InputError
from bench.text import quoted

SIZE_LIMIT_BYTES = 2**20
NODE_LIMIT = 20_000  # aliases count as what they expand to
DEPTH_LIMIT = 16

_NULL = re.compile(r"(?:~|null|Null|NULL)?\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
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
    builder = _Builder(label)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise fault(label, line, f"this is not valid YAML: {error.problem or error}") from None
    if builder.root is None:
        raise InputError(f"{label}:1: the file is empty; a matrix needs at least axes: {{workload: […]}}")
    if not isinstance(builder.root.value, dict):
        raise InputError(f"{label}:{builder.root.line}: the top level must be a mapping with a key axes")
    return builder.root


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


@dataclass(kw_only=True)
class _Open:
    """A list or mapping whose end has not come yet."""

    mapping: bool
    line: int
    anchor: str | None
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Node] = field(default_factory=dict)
    key_lines: dict[str, int] = field(default_factory=dict)
    key: str | None = None
    size: int = 1

    def close(self) -> Node:
        value: list[Node] | dict[str, Node] = self.entries if self.mapping else self.items
        return Node(value=value, line=self.line, key_lines=self.key_lines, size=self.size)


class _Builder:
    """Events in, nodes out, on a stack of its own: no input can exhaust Python's."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.root: Node | None = None
        self.stack: list[_Open] = []
        self.anchors: dict[str, Node] = {}
        self.count = 0

    def take(self, event: yaml.Event) -> None:
        """Add one event."""
        mark = event.start_mark
        line = mark.line + 1 if mark else 1
        if isinstance(event, yaml.NodeEvent) and not isinstance(event, yaml.AliasEvent):
            self.check_node(event, line)
        if isinstance(event, yaml.ScalarEvent):
            self.add(self.scalar(event, line), anchor=event.anchor)
        elif isinstance(event, yaml.AliasEvent):
            self.add(self.alias(str(event.anchor), line), anchor=None)
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(self.stack) >= DEPTH_LIMIT:
                raise self.error(line, f"nested more than {DEPTH_LIMIT} deep; a matrix needs no more than four levels")
            mapping = isinstance(event, yaml.MappingStartEvent)
            self.stack.append(_Open(mapping=mapping, line=line, anchor=event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = self.stack.pop()
            self.add(closed.close(), anchor=closed.anchor)

    def check_node(self, event: yaml.NodeEvent, line: int) -> None:
        """Refuse tags and a second document."""
        tag = getattr(event, "tag", None)
        if tag is not None:
            shown = quoted(str(tag).replace("tag:yaml.org,2002:", "!!"))
            raise self.error(line, f"tag {shown} is not allowed; write a plain value")
        if self.root is not None:
            raise self.error(line, "a second document begins here; a matrix is one document")

    def scalar(self, event: yaml.ScalarEvent, line: int) -> Node:
        """A node from one scalar: quoted text stays text."""
        value: Scalar = event.value
        if event.style is None:
            value = self.resolve(event.value, line)
        return Node(value=value, line=line, text=event.value)

    def resolve(self, text: str, line: int) -> Scalar:
        """The value of an unquoted scalar after YAML 1.2's core schema."""
        if _NULL.match(text):
            return None
        if _BOOL.match(text):
            return text.lower() == "true"
        if _INT.match(text) and len(text) <= 18:
            return int(text)
        if _FLOAT.match(text):
            if len(text) > 40 or not math.isfinite(float(text)) or _INT.match(text):
                raise self.error(line, f"number {quoted(text)} is out of range; write a smaller one")
            return float(text)
        return text

    def alias(self, anchor: str, line: int) -> Node:
        """The node that an alias stands for."""
        if anchor not in self.anchors:
            raise self.error(line, f"alias *{anchor} stands for nothing before it; define &{anchor} first")
        return self.anchors[anchor]

    def add(self, node: Node, *, anchor: str | None) -> None:
        """Hang a finished node into what is open, or make it the root."""
        if anchor is not None:
            self.anchors[anchor] = node
        if not self.stack:
            self.root = node
            return
        parent = self.stack[-1]
        parent.size += node.size
        if max(parent.size, sum(frame.size for frame in self.stack)) > NODE_LIMIT:
            raise self.error(node.line, f"more than {NODE_LIMIT} values, aliases expanded; write a smaller matrix")
        if not parent.mapping:
            parent.items.append(node)
        elif parent.key is None:
            parent.key = self.take_key(parent, node)
        else:
            parent.entries[parent.key] = node
            parent.key = None

    def take_key(self, parent: _Open, node: Node) -> str:
        """The text of a mapping's next key, seen for the first time."""
        if isinstance(node.value, list | dict):
            raise self.error(node.line, "a key must be a word, not a list or mapping")
        key = node.text
        if key == "<<":
            raise self.error(node.line, "merge key << is not supported; write the values out")
        if key in parent.key_lines:
            first = parent.key_lines[key]
            raise self.error(node.line, f"key {quoted(key)} is given twice, first on line {first}; keep one")
        parent.key_lines[key] = node.line
        return key

    def error(self, line: int, sentence: str) -> InputError:
        """One sentence with its place."""
        return fault(self.label, line, sentence)
