"""A reproducible companion to DecoupledESC (Zhang et al. 2025) and CSO (Zhao et al. 2025).

The rooms of this library, each knowing only the ones before it: ``taxonomy``, ``corpus``, ``prompts``,
``models``, ``generate``, ``train``, ``evaluate``, ``present``, ``workflow``.  Data flows one way:
Dialogue -> Turn -> Prompt -> Reply -> Score -> Figure.
"""

__version__ = "0.1.0"
