"""Revisions of the tables, one module each.

A revision has a number, and `usable_from`: the oldest one whose code works on the tables. It extends only, so that this is the revision
before; what a release does not use any more is removed by a revision of the next release. On large tables, a new column has no volatile
default, and an index is made by CREATE INDEX CONCURRENTLY in an autocommit block of alembic's context, after a DROP INDEX CONCURRENTLY IF
EXISTS of what a failed attempt has left.
"""
