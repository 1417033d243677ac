"""Writes the chart's values.schema.json, and the table of values in its README: `make chart`.

`place` is si.config's own model, so a key that si-ctl does not know is refused by `helm install`
already. What the values mean is said once, in the comments of values.yaml.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from si.config.place import Kubernetes, Place
from si.config.section import Section

# The chart's own values are spelt as charts spell them; pydantic copies defaults.
# ruff: noqa: N815, RUF012

CHART = Path(__file__).parent / "si-ctl"
VALUES = CHART / "values.yaml"

# What the templates put into the place; nobody gives it.
DECIDED = ("release", "controller_account", "stage_account", "cache_claim")

BEGIN, END = "<!-- values: written by make chart -->", "<!-- end of values -->"

Port = Annotated[int, Field(ge=1, le=65535)]


class Images(Section):
    registry: str = ""
    tag: str = ""


class ServiceAccount(Section):
    controllerAnnotations: dict[str, str] = {}
    stageAnnotations: dict[str, str] = {}


class Selector(Section):
    """As Kubernetes writes it."""

    matchLabels: dict[str, str] = {}
    matchExpressions: list[dict[str, Any]] = []


class Block(Section):
    """An address range without some of its addresses."""

    cidr: str
    except_: list[str] = Field([], alias="except")


class Destination(Section):
    """Addresses, or pods, and ports."""

    enabled: bool = True
    cidrs: list[str | Block] = []
    namespaceSelector: Selector = Selector()
    podSelector: Selector = Selector()
    ports: list[Port] = []


class Cilium(Section):
    enabled: bool | None = None
    bucket: list[dict[str, str]] = []
    hub: list[dict[str, str]] = []


class NetworkPolicy(Section):
    enabled: bool = True
    dns: Destination = Destination()
    bucket: Destination = Destination()
    hub: Destination = Destination()
    apiServer: Destination = Destination()
    credentials: Destination = Destination()
    egress: list[dict[str, Any]] = []
    cilium: Cilium = Cilium()


class Cache(Section):
    enabled: bool = False
    existingClaim: str = ""
    size: str = ""
    storageClass: str = ""
    accessMode: Literal["ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"] = "ReadWriteMany"


class Values(Section):
    """Values of the chart si-ctl."""

    images: Images
    place: Place
    allow: list[str]
    serviceAccount: ServiceAccount
    networkPolicy: NetworkPolicy
    cache: Cache
    labels: dict[str, str]
    globals_: dict[str, Any] = Field({}, alias="global")
    """What Helm hands to a chart that is part of another; not read."""


def schema() -> dict[str, Any]:
    """JSON Schema of the chart's values."""
    whole = Values.model_json_schema()
    place, kubernetes = (whole["$defs"][model.__name__] for model in (Place, Kubernetes))
    for name in DECIDED:
        del kubernetes["properties"][name]
    # Pods share no folder. Empty is refused too, by the templates: they can say what to do.
    place["properties"]["store"] |= {"pattern": "^(s3://.+)?$"}
    # The dialect that every Helm 3 and 4 understands.
    return {"$schema": "http://json-schema.org/draft-07/schema#", **_bare(whole)}


def _bare(node: Any, names: bool = False) -> Any:
    """Without titles and defaults; values.yaml has the chart's."""
    if isinstance(node, list):
        return [_bare(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _bare(value, names=not names and key in ("properties", "$defs"))
        for key, value in node.items()
        if names or key not in ("title", "default")
    }


def values() -> Iterator[tuple[str, str | None, str]]:
    """Dotted name, default as it is written (None for a section) and comment of every value."""
    text = VALUES.read_text()
    lines = text.splitlines()

    def walk(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, str | None, str]]:
        for key, value in node.value:
            line = key.start_mark.line
            comment: list[str] = []
            while line and (above := re.fullmatch(r" *# (.+)", lines[line - 1])):
                comment.insert(0, above.group(1))
                line -= 1
            section = isinstance(value, yaml.MappingNode) and not value.flow_style
            written = text[value.start_mark.index : value.end_mark.index]
            if isinstance(value, yaml.SequenceNode) and not value.flow_style:
                # A block's mark lies behind the next comment, and a cell has one line.
                items = yaml.safe_load(yaml.serialize(value))
                written = yaml.safe_dump(items, default_flow_style=True, width=1 << 16).strip()
            name = f'"{key.value}"' if "." in key.value else key.value
            yield prefix + name, None if section else written, " ".join(comment)
            if section:
                yield from walk(value, f"{prefix}{name}.")

    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    yield from walk(root, "")


def table() -> str:
    """The README's table of values."""
    rows = [
        f"| `{name}` | {'' if default is None else f'`{default}`'} | {comment} |"
        for name, default, comment in values()
    ]
    return "\n".join([BEGIN, "", "| value | default | meaning |", "|---|---|---|", *rows, "", END])


def files() -> dict[Path, str]:
    """What is generated: path and content."""
    readme = CHART / "README.md"
    head, rest = readme.read_text().split(BEGIN)
    return {
        CHART / "values.schema.json": json.dumps(schema(), indent=2, ensure_ascii=False) + "\n",
        readme: head + table() + rest.split(END)[1],
    }


if __name__ == "__main__":
    for path, content in files().items():
        path.write_text(content)
