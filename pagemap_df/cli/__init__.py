"""The command ``pagemap-df``; one module for each kind of command."""

from . import answers, make, many, tables, twin
from .base import main

__all__ = ["answers", "main", "make", "many", "tables", "twin"]
