"""ComfyUI extension: vector-quantized diffusion models. The package itself is ``comfy_vq``.

In a ComfyUI that cannot run it, it says so in one line and offers no nodes.
"""

import logging

from .comfy_vq import __version__
from .comfy_vq.hosts.verdict import judge_running

_verdict = judge_running()

if _verdict.fine:
    from .comfy_vq.nodes import comfy_entrypoint

    WEB_DIRECTORY = "./web"

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
else:
    logging.getLogger(__name__).warning(
        "comfy-vq %s offers no nodes: %s", __version__, _verdict.line
    )
    NODE_CLASS_MAPPINGS = {}

    __all__ = ["NODE_CLASS_MAPPINGS"]
