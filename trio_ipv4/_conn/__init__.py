"""Connections: one socket each, its options, its memberships, and what it sends and receives."""
