"""Immutable values that parse and marshal bytes. Pure: no socket, no system, no trio."""
