"""The YAML files that people write: shop.yml, rules.yml and campaigns/*.yml.

What the YAML library would take in silence is refused here: a key that is there twice, of which it
would keep the last, and a number where a day is meant.
"""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator


class YamlError(ValueError):
    """A file that cannot be read; the message names file and line and says what to do."""


def read(path: Path) -> Any:
    """What the file says, None for an empty one; raises YamlError."""
    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except OSError as error:
        raise YamlError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise YamlError(
            f"{path} is not in UTF-8 (byte {error.start + 1}): save it as UTF-8"
        ) from error
    except _Refused as error:
        raise YamlError(f"{path}{_line(error)}: {error.problem}") from error
    except yaml.MarkedYAMLError as error:
        said = ", ".join(filter(None, [error.context, error.problem]))
        raise YamlError(f"{path} is no YAML{_line(error)}: {said}") from error
    except yaml.YAMLError as error:
        raise YamlError(f"{path} is no YAML: {' '.join(str(error).split())}") from error


def _line(error: yaml.MarkedYAMLError) -> str:
    return f", line {error.problem_mark.line + 1}" if error.problem_mark else ""


class _Refused(yaml.MarkedYAMLError):
    pass


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            written, line = (key.tag, key.value), key.start_mark.line + 1
            if written in first:
                problem = f"`{key.value}` is there already in line {first[written]}: keep one"
                raise _Refused(problem=problem, problem_mark=key.start_mark)
            first[written] = line
        return node

    def construct_yaml_timestamp(self, node: yaml.ScalarNode) -> date:
        try:
            return super().construct_yaml_timestamp(node)
        except ValueError as error:
            problem = f"{node.value} is no day of the calendar ({error})"
            raise _Refused(problem=problem, problem_mark=node.start_mark) from error


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_yaml_timestamp)


def _day(value: Any) -> Any:
    """A day as YAML or text gives it; pydantic would take a number as seconds since 1970."""
    if value is None or (isinstance(value, date) and not isinstance(value, datetime)):
        return value
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(f"{value} is no date: write a day as 2026-01-31") from None


Day = Annotated[date, BeforeValidator(_day)]
"""A field that holds a day."""
