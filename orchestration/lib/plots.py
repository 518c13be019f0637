"""Plots as asset metadata: a PNG inside Markdown, which Dagster's UI shows in place."""

from __future__ import annotations

import base64

from dagster import MarkdownMetadataValue, MetadataValue


def picture(png: bytes, title: str) -> MarkdownMetadataValue:
    """`png` as Markdown metadata."""
    return MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")
