"""Vector quantization of diffusion models: 2-4 bits per weight, run from the compressed form."""

__version__ = "0.1.0"
