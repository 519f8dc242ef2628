"""Storage of a registry in PostgreSQL and an object store, shared by any number of machines.

Objects have random keys and are written once. A row holds the key of each digest, so that a deletion never meets a write of the
same name. All state is in the database and the object store: each request may go to another process.
"""
