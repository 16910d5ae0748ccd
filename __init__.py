"""ComfyUI extension: vector-quantized diffusion models. The package itself is ``comfy_vq``."""

from .comfy_vq.nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
