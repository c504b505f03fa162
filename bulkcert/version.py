"""The version of this package, in a module that everybody may import."""

VERSION = "0.1.0"
"""As in pyproject.toml."""
