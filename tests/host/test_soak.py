"""A short soak against the server of these tests; ``benchmarks.soak`` is the whole one."""

import json

from benchmarks.soak import soak
from benchmarks.soak_files import write_files
from benchmarks.soak_graphs import QUANTIZER, SAMPLER, Picture, picture_graph
from benchmarks.soak_schedule import FAULTS, Fault, Mix, Step, schedule
from comfy_server import ComfyServer

MIX = Mix(
    models=(("sd15", "file"), ("flux", "file"), ("flux", "quantized")),
    loras=((), (("dora", 1.0), ("low-rank", 0.5))),
    seeds=(1,),
    faults=FAULTS[:3],
)
TWO_MODELS = 100
"""MB: more than one tiny model takes, dense, with its activations, and what it was loaded from."""


def test_pictures_faults_and_interruptions_in_a_row(server: ComfyServer):
    write_files(server)
    steps, warm = schedule(18, 1, MIX)
    found = soak(server, steps, warm, print)
    assert found.problems() == []
    assert found.rendered > len(found.first) == len(MIX.pictures())
    assert set(found.faults) == {fault.name for fault in MIX.faults}
    assert found.hits[SAMPLER] and found.hits[QUANTIZER]
    assert found.unloads
    assert found.resident[-1] / 1e6 < found.start + TWO_MODELS


def test_what_goes_wrong_is_noticed(server: ComfyServer):
    write_files(server)
    picture = Picture("flux", "file", (), 1)
    adapter = server.models("loras") / "soak-flux-low-rank.safetensors"
    patched = Picture("flux", "file", (("low-rank", 1.0),), 1)
    no_fault = Fault("none", lambda nonce: picture_graph(picture, nonce), "expected error")
    before = soak(server, [Step(picture), Step(patched), Step(no_fault)], 0, print)
    assert before.mismatching == []
    assert before.answers == ["prompt 2, none: success"]

    content = bytearray(adapter.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    begin, _ = header["diffusion_model.img_in.lora_up.weight"]["data_offsets"]
    content[start + begin + 3] ^= 0x80  # the sign of one number
    adapter.write_bytes(content)
    after = soak(server, [Step(picture, unload=True), Step(patched)], 0, print)
    assert before.first[picture] == after.first[picture]
    assert before.first[patched] != after.first[patched]
