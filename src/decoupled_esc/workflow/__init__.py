"""Profiles, stages, the result store, the graph of jobs, the book and the command line."""

from __future__ import annotations

from decoupled_esc.workflow.chapters import open_chapter
from decoupled_esc.workflow.session import Session

__all__ = ["Session", "open_chapter"]
