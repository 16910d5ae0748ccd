"""CLIPs: from what ComfyUI holds to coded text encoders, and built again from a file."""
