"""When to save and what to keep: pure functions of frozen records."""
