"""Adapters from users' own model objects to the protocol that the sampler drives."""
