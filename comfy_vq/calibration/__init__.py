"""What goes into each layer of a model while it samples, as second moments.

>>> from comfy_vq import calibration
>>> collector = calibration.Collector(layers, shapes)
>>> with collector.listening():
...     sample(network)
>>> calibration.save("model-calibration.safetensors", collector.result(pictures=1))
"""

from .collector import Collector
from .file import VERSION, load, noted, save
from .moments import Calibration, Moments

__all__ = ["VERSION", "Calibration", "Collector", "Moments", "load", "noted", "save"]
