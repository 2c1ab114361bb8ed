"""Data sets, one module each: a configuration, a source, a card. Never imports torch at module level."""
