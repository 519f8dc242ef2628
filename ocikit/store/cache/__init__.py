"""The cache of blobs, tags and snapshots, its inventory and its pruning."""
