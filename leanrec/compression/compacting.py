"""A rewritten graph in as few bytes as it can be described with: equal constants once, short names."""

from __future__ import annotations

import itertools

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
    names = {name: name for name in kept}
    unused = (name for name in map(_letters, itertools.count()) if name not in kept)

    def short(name: str) -> str:
        if name not in names:
            names[name] = next(unused)
        return names[name]

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
