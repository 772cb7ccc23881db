"""LatentSync as nodes of ComfyUI: this folder, linked or copied into `ComfyUI/custom_nodes`. See README.md."""

from comfy_api.latest import ComfyExtension, io

from .nodes import LatentSyncImages, LatentSyncLoader, LatentSyncVideo


class LatentSyncExtension(ComfyExtension):
    """The nodes of this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LatentSyncLoader, LatentSyncVideo, LatentSyncImages]


async def comfy_entrypoint() -> LatentSyncExtension:
    """Called by ComfyUI."""
    return LatentSyncExtension()
