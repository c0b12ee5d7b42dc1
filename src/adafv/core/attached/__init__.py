"""A pruner attached to a model: its calls, the cache of a chat, and the caller's own numbers."""
