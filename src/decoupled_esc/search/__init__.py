"""Searching for better dialogues (CSO): a tree over what supporters could have said, and preference pairs from it."""
