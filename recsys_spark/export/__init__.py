"""Handing the published lists over to what serves them: files, Redis, PostgreSQL.

A target gets a version under a name of its own, whole, and then switches to it in one step; who reads it sees the old
lists or the new ones, never some of each. A version that stands there already is not written again.
"""
