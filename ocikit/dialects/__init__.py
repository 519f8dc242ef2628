"""The formats of models in registries: what their layers are called, and what their configs state."""
