"""Searching for better dialogues (CSO): a tree over what supporters could have said, grown by four roles, and its preference pairs."""
