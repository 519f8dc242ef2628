"""Storage of the registry: blobs, uploads and metadata, garbage collection, verification."""
