"""Replies and scores from models behind one ``Engine``: transformers or vLLM.  Chat servers answer in forms (``client``)."""

from decoupled_esc.generate.engine import Completion, Engine, Sampling, open_engine
