"""``python -m lightning_nndebug`` is the command ``nndebug``."""

from .cli import app

if __name__ == "__main__":
    app(prog_name="nndebug")
