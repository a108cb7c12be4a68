"""The built-in backends, each a plugin."""
