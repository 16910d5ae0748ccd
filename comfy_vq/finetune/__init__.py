"""Fine-tuning of a quantized model against the dense one that it was made of."""
