"""What a reader sees: the papers' values, verdicts, tables and figures."""
