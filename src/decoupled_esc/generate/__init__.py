"""Replies and scores from models: in this process (``local``); servers are to come."""
