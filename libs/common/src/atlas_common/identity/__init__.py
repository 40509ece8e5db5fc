"""How callers prove who they are: signed tokens, and names in client certificates."""
