"""Replies and scores from models, all behind one ``Engine``: transformers, vLLM, or a chat server (asked on a record)."""

from decoupled_esc.generate.engine import Completion, Engine, Sampling, open_engine

__all__ = ["Completion", "Engine", "Sampling", "open_engine"]
