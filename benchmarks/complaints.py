"""What users of other quantized formats complain about in ComfyUI, and the tests that would notice it here."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Complaint:
    """A known complaint.

    Attributes:
        what: as users put it.
        here: why it cannot happen, or what happens instead.
        tests: ``file::test``, below ``tests/``.
    """

    what: str
    here: str
    tests: tuple[str, ...]


COMPLAINTS = (
    Complaint(
        "After an install by the Manager a backend or wheel is missing",
        "nothing is compiled or downloaded; what speeds up is tried out and left out where it fails",
        (
            "test_packaging.py::test_requirements_leave_the_host_alone",
            "test_packaging.py::test_published_files",
            "host/test_install.py::test_any_folder_name_and_several_at_once",
            "kernels/test_dispatch.py::test_a_missing_triton_is_said",
        ),
    ),
    Complaint(
        "The requirements moved numpy or torch",
        "requirements name nothing that ComfyUI owns, and no version",
        (
            "test_packaging.py::test_requirements_leave_the_host_alone",
            "test_install_script.py::test_says_one_line",
        ),
    ),
    Complaint(
        "Speed falls with each LoRA",
        "all LoRAs of a layer are one pair of thin matrices beside it",
        (
            "host/test_adapters.py::test_loras_are_merged_into_one_pair_of_products",
            "test_lowrank.py::test_several_are_one_pair_of_matrices",
            "host/test_adapters.py::test_a_change_of_strength_touches_no_weight",
        ),
    ),
    Complaint(
        "LoRAs have no effect where memory is short",
        "the same result at any budget, for every kind of adapter",
        (
            "host/test_adapters.py::test_gives_what_it_gives_on_the_decoded_weights",
            "host/test_lora.py::test_partly_loaded",
            "host/test_dynamic.py::test_adapters",
            "host/test_features.py::test_feature",
        ),
    ),
    Complaint(
        "LoRAs are lost, or weights rounded anew, when a patched weight is quantized again",
        "a patched weight is never coded again",
        (
            "host/test_memory.py::test_codes_stay_codes_whatever_is_patched",
            "host/test_dynamic.py::test_large_weights_stay_coded_and_small_ones_come_back",
            "host/test_adapters.py::test_gives_what_it_gives_on_the_decoded_weights",
        ),
    ),
    Complaint(
        "Memory is pinned, never freed, or counted wrongly",
        "the host's own accounting, told the true sizes",
        (
            "host/test_memory.py::test_partly_loaded_at_any_budget",
            "host/test_memory.py::test_partly_unloaded_and_loaded_again",
            "host/test_memory.py::test_the_process_never_holds_the_dense_model",
            "host/test_loading.py::test_has_the_compressed_size",
            "host/test_inference_mode.py::test_unloaded_by_the_host_and_sampled_again",
            "host/test_soak.py::test_pictures_faults_and_interruptions_in_a_row",
        ),
    ),
    Complaint(
        "Noise or black pictures under torch.compile, or on AMD cards",
        "compiled results are compared with uncompiled ones; kernels are tried out on each card, and a failing "
        "one is not used. No AMD card was at hand: kernels are compiled for them ahead of time",
        (
            "host/test_compile.py::test_samples_through_the_host_s_wrapper",
            "host/test_features.py::test_feature",
            "kernels/test_dispatch.py::test_wrong_weights_are_no_weights",
            "kernels/test_dispatch.py::test_unknown_amd_cards_are_named",
            "kernels/test_triton.py::test_no_target_spills",
            "gpu/test_decode.py::test_extreme_scales_make_no_nan",
        ),
    ),
    Complaint(
        '"Unexpected architecture"',
        "whatever ComfyUI recognizes is quantized, by a general plan where no family's is known",
        (
            "host/test_families.py::test_every_model_of_the_host_has_a_family",
            "host/test_families.py::test_is_loaded_as_its_class_and_samples_as_its_decoded_weights",
            "host/test_loading.py::test_unknown_models_are_refused_with_advice",
        ),
    ),
    Complaint(
        "Converting needs a patched build of another tool",
        "a node, and a command of this package",
        (
            "host/test_workflows.py::test_quantize_and_save",
            "cli/test_quantize.py::test_meets_the_bits_and_prints_the_plan",
            "test_packaging.py::test_command_line_from_a_checkout",
        ),
    ),
    Complaint(
        "Windows has no headers for Triton",
        "where Triton's first launch fails it is not asked again, one line says so, and plain PyTorch decodes",
        (
            "kernels/test_dispatch.py::test_a_missing_triton_is_said",
            "kernels/test_dispatch.py::test_a_failed_launch_is_tried_once_and_logged_once",
            "cli/test_doctor.py::test_says_what_decodes_and_why",
        ),
    ),
    Complaint(
        "An update of ComfyUI broke the node: it overrode ModelPatcher.load, or wrapped the whole model",
        "the model and its network are the host's; methods that are overridden are named, and compared with the host's",
        (
            "host/test_host_contract.py::test_what_is_overridden_takes_what_the_host_passes",
            "host/test_host_contract.py::test_loading_is_the_hosts",
            "host/test_host_contract.py::test_the_model_is_the_hosts",
            "host/test_old_host.py::test_a_server_starts_and_has_no_nodes_of_ours",
        ),
    ),
)


def missing_tests() -> list[str]:
    """Tests that are named and do not exist."""
    named = sorted({test for complaint in COMPLAINTS for test in complaint.tests})
    return [test for test in named if not _exists(*test.split("::"))]


def _exists(file: str, name: str) -> bool:
    path = ROOT / "tests" / file
    if not path.is_file():
        return False
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(n, ast.FunctionDef) and n.name == name for n in ast.walk(tree))


def table() -> str:
    """The complaints as Markdown."""
    lines = ["| complaint | here | tests |", "|---|---|---|"]
    for complaint in COMPLAINTS:
        tests = ", ".join(f"`{test}`" for test in complaint.tests)
        lines.append(f"| {complaint.what} | {complaint.here} | {tests} |")
    return "\n".join(lines)
