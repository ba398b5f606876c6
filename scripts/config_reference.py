"""Write the configuration reference and the list of tables into docs/, from the code that they describe.

    scripts/config_reference.py           update docs/configuration.md and docs/architecture.md
    scripts/config_reference.py --check   change nothing; exit 1 where one of them is out of date

Each generated part stands between two markers, `<!-- NAME:begin … -->` and `<!-- NAME:end -->`.
"""

from __future__ import annotations

import argparse
import ast
import datetime as dt
import inspect
import itertools
import json
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from recsys_spark import models
from recsys_spark.config import Config, Limit, Section
from recsys_spark.schemas import TABLES

DOCS = Path(__file__).parents[1] / "docs"
_NAMES = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "boolean",
    dt.date: "date",
    type(None): "null",
    Any: "any",
}
_BOUNDS = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))

MEANINGS = {
    "seed": "Of everything that is drawn: the embedded log, initial weights, shuffles, negatives, the bootstrap.",
    "log.format": "JSON lines, CSV (any delimiter) or Parquet.",
    "log.delimiter": "Between the fields of a CSV file; may be several characters.",
    "log.header": "Whether each CSV file begins with a line of column names.",
    "log.encoding": "Of a text file: UTF-8 or ISO-8859-1.",
    "log.items": "The item catalogue; null = none, and the lists name items by their ids.",
    "log.items.format": "As of the log.",
    "log.items.delimiter": "As of the log.",
    "log.items.header": "As of the log.",
    "log.items.encoding": "Of a CSV file.",
    "log.generate.users": "Users who appear in the log.",
    "log.generate.items": "Items of the catalogue.",
    "log.generate.days": "Days, one folder each.",
    "log.generate.start": "The first day.",
    "log.generate.categories": "Categories that the items are spread over.",
    "log.generate.dirt.duplicates": "The same line once more.",
    "log.generate.dirt.late": "Whole, but a few days after its own day.",
    "log.generate.dirt.bad_timestamp": "A time that cannot be read or is out of the question.",
    "log.generate.dirt.unknown_type": "An event type that nobody has announced.",
    "log.generate.dirt.truncated": "JSON that breaks off.",
    "log.generate.dirt.nulls": "No user or no item.",
    "log.generate.dirt.bots": "Views of one user at a fixed interval; they come on top of the events.",
    "dataset.split": "By day, each user's last items, or as the log's own `split` column says.",
    "train.baselines": "Models fitted on Spark.",
    "train.deep": "Models trained by Petastorm, Horovod and torch; may be empty.",
    "evaluation.ks": "Cut-offs of the ranking metrics; promotion needs 10 among them.",
    "evaluation.confidence": "Of every interval.",
    "publish.k": "Items per user.",
    "publish.exploration.epsilon": "Of the policy `epsilon`.",
    "experiment.assignments.format": "As of the log.",
    "experiment.assignments.delimiter": "As of the log.",
    "experiment.assignments.header": "As of the log.",
    "experiment.assignments.encoding": "Of a CSV file.",
    "models.als.iterations": "Rounds of alternating least squares.",
    "models.neumf.dropout": "After each layer of the perceptron.",
    "models.two_tower.dropout": "After each tower's hidden layer.",
}
"""What keys mean that say nothing for themselves in the code; a docstring there takes the entry's place."""


def sections(model: type[Section], prefix: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Yield a section and all those below it, each with its key."""
    yield prefix, model
    for name, field in model.model_fields.items():
        inner = _section(field.annotation)
        if inner is not None:
            yield from sections(inner, f"{prefix}.{name}".lstrip("."))
        elif model is Config and name == "models":
            for known in (*models.BASELINES, *models.DEEP, *models.RANKERS, models.TWO_STAGE):
                yield from sections(models.module_of(known).Config, f"models.{known}")


def configuration() -> str:
    """Return the reference: a table of keys for each section."""
    parts, used = [], set()
    for prefix, model in sections(Config):
        said = docstrings(model)
        rows = []
        for name, field in model.model_fields.items():
            key = f"{prefix}.{name}".lstrip(".")
            if key == "models" or (_section(field.annotation) and not _optional(field)):
                continue  # a section that is always there has a table of its own
            meaning = said.get(name) or MEANINGS.get(key)
            if meaning is None:
                raise SystemExit(f"{key}: has neither a docstring in the code nor a line in MEANINGS")
            used.add(key)
            rows.append((f"`{key}`", _type(field), _default(field), meaning))
        title = f"### `{prefix}`" if prefix else "### Top level"
        parts.append(_part(title, inspect.getdoc(model) or "", ("key", "type", "default", "meaning"), rows))
    stale = sorted(MEANINGS.keys() - used)
    if stale:
        raise SystemExit(f"MEANINGS: {stale[0]} is no key of the configuration any more")
    return "\n\n".join(parts)


def tables() -> str:
    """Return every table's meaning, key and columns."""
    parts = []
    for table in TABLES:
        key = f"One version per `{table.key}`." if table.key else "The whole table is versioned."
        rows = [
            (f"`{f.name}`", f"`{f.dataType.simpleString()}`", f.metadata.get("comment", ""))
            for f in table.schema.fields
        ]
        parts.append(_part(f"### `{table.name}`", f"{table.meaning} {key}", ("column", "type", "meaning"), rows))
    return "\n\n".join(parts)


def docstrings(model: type[Section]) -> dict[str, str]:
    """Return the text below each field of a section; an inherited one stands where the section has none."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, Section) or cls is Section:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
        for field, below in itertools.pairwise(body):
            match field, below:
                case ast.AnnAssign(target=name), ast.Expr(value=ast.Constant(value=str(text))):
                    found[ast.unparse(name)] = " ".join(text.split())
    return found


def _section(kind: Any) -> type[Section] | None:
    """Return the section that an annotation means, be it optional or not."""
    for part in (kind, *typing.get_args(kind)):
        if isinstance(part, type) and not typing.get_origin(part) and issubclass(part, Section) and part is not Limit:
            return part
    return None


def _optional(field: FieldInfo) -> bool:
    return type(None) in typing.get_args(field.annotation)


def _type(field: FieldInfo) -> str:
    bounds = []
    for constraint in field.metadata:
        bounds += [f"{sign} {getattr(constraint, name):g}" for name, sign in _BOUNDS if hasattr(constraint, name)]
        if getattr(constraint, "min_length", None):
            bounds.append("not empty")
        if getattr(constraint, "pattern", None):
            bounds.append(f"like `{constraint.pattern}`")
    return ", ".join([_name(field.annotation), *bounds])


def _name(kind: Any) -> str:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_name(part) for part in inner)
    if origin is list:
        return f"list of {_name(inner[0])}"
    if origin is dict:
        return f"mapping of {_name(inner[0])} to {_name(inner[1])}"
    if kind is Limit:
        return "`warn` and `stop`"
    return "section" if isinstance(kind, type) and issubclass(kind, BaseModel) else _NAMES[kind]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return f"`{value}`" if isinstance(value, dt.date) else f"`{json.dumps(value, default=Limit.model_dump)}`"


def _part(title: str, about: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    grid = ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return "\n".join([title, "", about, "", *grid])


def filled(text: str, name: str, content: str) -> str:
    """Return a document with what stands between the markers of `name` replaced."""
    between = re.compile(rf"(<!-- {name}:begin[^>]*-->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    made, found = between.subn(lambda m: f"{m[1]}\n{content}\n\n{m[2]}", text)
    if found != 1:
        raise SystemExit(f"{name}: there have to be one begin and one end marker, found {found}")
    return made


def documents() -> dict[Path, str]:
    """Return each document that has generated parts, as it should be."""
    made = {}
    for file, name, content in (
        (DOCS / "configuration.md", "configuration", configuration()),
        (DOCS / "architecture.md", "tables", tables()),
    ):
        made[file] = filled(made.get(file) or file.read_text(encoding="utf-8"), name, content)
    return made


def main(arguments: list[str] | None = None) -> int:
    """Update or check the documents; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, and fail where something would change")
    args = parser.parse_args(arguments)
    stale = {file: text for file, text in documents().items() if file.read_text(encoding="utf-8") != text}
    for file, text in stale.items():
        if args.check:
            print(f"{file}: is out of date; run scripts/config_reference.py", file=sys.stderr)
        else:
            file.write_text(text, encoding="utf-8")
            print(f"updated {file}")
    return int(args.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
