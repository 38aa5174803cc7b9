"""A rewritten graph in as few bytes as it can be described with: equal constants once, short names."""

from __future__ import annotations

import onnx

from leanrec.export.onnx_export import share_equal_constants

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def compact(graph: onnx.ModelProto) -> onnx.ModelProto:
    """`graph` with equal constants held once and all names but the served ones short.

    A small model's names would otherwise take as many bytes as its weights. What it computes is the same.
    """
    body = graph.graph
    share_equal_constants(body)
    kept = {"", *(value.name for value in (*body.input, *body.output))}
    names: dict[str, str] = {}

    def short(name: str) -> str:
        if name in kept:
            return name
        while name not in names:
            candidate = _letters(len(names) + len(taken))
            if candidate in kept:
                taken.append(candidate)
            else:
                names[name] = candidate
        return names[name]

    taken: list[str] = []
    for tensor in body.initializer:
        tensor.name = short(tensor.name)
    for node in body.node:
        node.name = ""
        for places in (node.input, node.output):
            for place, name in enumerate(places):
                places[place] = short(name)
    return graph


def _letters(number: int) -> str:
    """A name for each number: a, b, ..., Z, aa, ba, ... (bijective, base 52)."""
    text = ""
    number += 1
    while number > 0:
        number, digit = divmod(number - 1, len(LETTERS))
        text += LETTERS[digit]
    return text
