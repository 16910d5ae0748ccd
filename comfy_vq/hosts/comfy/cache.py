"""Where the host keeps quantizations that were made before."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...cache import Cache, configured


def host_cache() -> Cache | None:
    """The cache among the host's own files of the user, or where the environment says.

    Returns:
        None where the environment switches it off.
    """
    return configured(Path(folder_paths.get_system_user_directory("comfy_vq")) / "cache")
