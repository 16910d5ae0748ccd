"""Adapters to the programs that run diffusion models: one per host, strangers to each other."""
