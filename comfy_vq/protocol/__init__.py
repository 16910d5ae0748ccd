"""The protocol of VQDM (arXiv 2409.00492), to measure this project's own against.

What it quantizes (``selection``), what it listens to (``moments``), how it codes a layer (``encode`` and
``sweep``), how it fine-tunes (``tuning``), and the order of all that (``run``). Written from the paper and from the
settings of its published scripts; a host lends the network.
"""
