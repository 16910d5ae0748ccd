"""The extension as ComfyUI loads it, under any folder name."""

import json

from comfy_server import CHECKOUT, ComfyServer, install_extension

NODES = {"VQQuantizeModel", "SaveVQCheckpoint", "LoadVQCheckpoint"}

LOAD = """
import asyncio, importlib, json, logging, sys
from pathlib import Path
from comfy_vq.hosts.comfy_boot import boot
logging.basicConfig(stream=sys.stdout)
comfyui, base, *names = sys.argv[1:]
boot(Path(comfyui), cpu=True, base_directory=Path(base))
import nodes, torch
report = {}
for name in names:
    folder = str(Path(base) / "custom_nodes" / name)
    before = set(nodes.NODE_CLASS_MAPPINGS)
    loaded = asyncio.run(nodes.load_custom_node(folder))
    package = folder.replace(".", "_x_") + ".comfy_vq"
    codecs = importlib.import_module(package + ".codecs")
    decoded = codecs.encode(torch.randn(8, 64), bits=2, effort="fast").decode()
    ours = [n for n, c in nodes.NODE_CLASS_MAPPINGS.items() if c.__module__.startswith(package)]
    report[name] = {"loaded": loaded, "nodes": ours, "shape": list(decoded.shape)}
print(json.dumps(report))
"""


def test_any_folder_name_and_several_at_once(comfyui, tmp_path, run_python):
    names = ("my.vq-nodes 2", "comfy_vq", "kernels")
    for name in names:
        install_extension(tmp_path / "custom_nodes" / name)
    output = run_python(LOAD, comfyui, tmp_path, *names)
    report = json.loads(output.splitlines()[-1])
    for name in names:
        assert report[name]["loaded"] is True, output
        assert NODES <= set(report[name]["nodes"])
        assert report[name]["shape"] == [8, 64]


def test_nodes_are_offered_under_one_category(server: ComfyServer):
    for node in NODES:
        assert server.object_info(node)["category"] == "VQ"


def test_every_node_has_a_help_page(server: ComfyServer):
    for node in NODES:
        page = server.get_bytes(f"/extensions/{server.extension.name}/docs/{node}.md")
        assert len(page) > 200


def test_workflows_are_offered_as_templates(server: ComfyServer):
    offered = server.get("/api/workflow_templates")[server.extension.name]
    shipped = {file.stem for file in (CHECKOUT / "workflows").glob("*.json")}
    assert shipped
    assert set(offered) == shipped
    for name in offered:
        path = f"/api/workflow_templates/{server.extension.name}/{name}.json"
        assert server.get(path)["nodes"]


def test_loading_leaves_sys_path_alone(comfyui, tmp_path, run_python):
    install_extension(tmp_path / "custom_nodes" / "vq")
    code = LOAD.replace("import nodes, torch", "import nodes, torch; paths = list(sys.path)")
    code += "\nassert sys.path == paths, sys.path\n"
    run_python(code, comfyui, tmp_path, "vq")
