"""Connections: one socket each, with its options, its memberships and its traffic."""
