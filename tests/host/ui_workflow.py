"""From a workflow as people share it (UI format) to a prompt as the server takes it (API format)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def to_prompt(workflow: dict[str, Any], object_info: Mapping[str, Any]) -> dict[str, Any]:
    """What the browser would post.

    Widget values are stored by position, so they are handed out in the order of each node's inputs.

    Raises:
        AssertionError: a node has more or fewer widget values than its schema has widgets, or a
            link that its schema has no input for.
    """
    links = {link[0]: (str(link[1]), link[2]) for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] not in object_info:  # a note; unknown nodes the server refuses by itself
            assert node["type"] in ("Note", "MarkdownNote"), f"no node {node['type']}"
            continue
        info = object_info[node["type"]]
        inputs = dict(_widgets(node, info))
        for slot in node["inputs"]:
            assert slot["name"] in _order(info), f"{node['type']} has no input {slot['name']}"
            if slot["link"] is not None:
                inputs[slot["name"]] = list(links[slot["link"]])
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def _order(info: Mapping[str, Any]) -> list[str]:
    return [
        name for group in ("required", "optional") for name in info["input_order"].get(group, [])
    ]


def _widgets(node: dict[str, Any], info: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    values = list(node.get("widgets_values", []))
    for name in _order(info):
        kind, *options = (
            info["input"].get("required", {}).get(name) or info["input"]["optional"][name]
        )
        options = options[0] if options else {}
        kind = options.get("widgetType", kind)
        if not (isinstance(kind, list) or kind in _WIDGET_TYPES) or options.get("forceInput"):
            continue
        assert values, f"{node['type']}: no value for {name}"
        yield name, values.pop(0)
        if options.get("control_after_generate"):
            assert values.pop(0) in ("fixed", "increment", "decrement", "randomize")
    assert not values, f"{node['type']}: values left over: {values}"
