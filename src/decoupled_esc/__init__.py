"""A reproducible companion to DecoupledESC (Zhang et al. 2025) and CSO (Zhao et al. 2025).

Data flows one way: Dialogue -> Turn -> Prompt -> Reply -> Score -> Figure.  `pyproject.toml` lists the rooms, each of which
knows only those below it.
"""

__version__ = "0.1.0"
