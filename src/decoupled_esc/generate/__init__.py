"""Replies and scores from models: in this process (``local``), or behind a server that speaks OpenAI's protocol (``client``).

``client`` sends many requests at once, keeps to a budget, and writes each answer down in a ``record`` before it is used.
"""
