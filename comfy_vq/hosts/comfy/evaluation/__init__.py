"""The ruler in ComfyUI: any model that it samples, from files or from a graph."""
