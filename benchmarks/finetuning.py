"""What pays to learn: a quantized form of the shipped model, tuned in several ways for as long.

    python make.py python -m pip install --no-deps -r benchmarks/requirements.txt
    python make.py python -m benchmarks.finetuning STUDENT [STUDENT ...] [--iterations 40]
                                                   [--scenes 16] [--count 8] [--ways WAY ...]
                                                   [--rate 0.003]

Row scales and dense tensors learn in each of them; in some of them codebooks, too, or codes move. All learn
from one recording of the teacher, without what students would ask themselves, and are measured by the noise
that they predict for scenes that nobody has learned from, as `evaluate` measures it. Sampled through diffusers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from comfy_vq import checkpoint
from comfy_vq.demo import scenes, task
from comfy_vq.demo.finetuning import DiffusersPupil
from comfy_vq.demo.model_files import model_files
from comfy_vq.demo.with_diffusers import DiffusersBench
from comfy_vq.evaluation.bench import spread
from comfy_vq.evaluation.figures import noise_figures
from comfy_vq.finetune.questions import Question
from comfy_vq.finetune.rounds import to_learn, to_measure
from comfy_vq.finetune.student import Student
from comfy_vq.finetune.training import CODE_RATE, Settings, Training
from comfy_vq.hosts.diffusers import load_unet
from comfy_vq.hosts.diffusers_finetuning import sites_of
from comfy_vq.model import VQModel

WAYS = {
    "scales": Settings(codebooks=False),
    "codebooks": Settings(),
    "codes": Settings(codebooks=False, code_rate=CODE_RATE),
    "codebooks, codes": Settings(code_rate=CODE_RATE),
}


class Ruler:
    """Noise SQNR on held-out scenes."""

    def __init__(self, count: int) -> None:
        files = model_files()
        shown = [scene.caption for scene in task.subjects(count)]
        self._bench = DiffusersBench(files.autoencoder, shown)
        self._recording = self._bench.record(self._bench.load(files.unet))

    def __call__(self, model: VQModel) -> str:
        predicted = self._bench.predict(load_unet(model), self._recording)
        sqnr = noise_figures(self._recording, predicted).sqnr_db
        return f"{sqnr.value:.2f}" + ("" if sqnr.margin is None else f" ± {sqnr.margin:.2f}")


def tuned(
    model: VQModel, settings: Settings, questions: Sequence[Question], held_out: Sequence[Question]
) -> tuple[VQModel, Training]:
    student = Student(model, sites_of(model), settings.codebooks)
    training = Training(student, questions, held_out, settings)
    training.run()
    return student.model(), training


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("students", type=Path, nargs="+", metavar="STUDENT")
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--scenes", type=int, default=16, help="to learn from")
    parser.add_argument("--count", type=int, default=8, help="held-out scenes to measure on")
    parser.add_argument("--rate", type=float, default=Settings.rate)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    files, ruler = model_files(), Ruler(args.count)
    models = [checkpoint.load(path) for path in args.students]
    captions = [scene.caption for scene in spread(scenes.training(), args.scenes)]
    trajectories = DiffusersPupil(files.unet, models[0], files.autoencoder, captions, 0).taught()
    questions, held_out = to_learn(trajectories), to_measure(trajectories)
    print("| student | what learns | bits/weight | own held-out dB | noise SQNR dB | seconds |")
    print("|---|---|--:|--:|--:|--:|", flush=True)
    for path, model in zip(args.students, models, strict=True):
        before = f"| {path.stem} | nothing | {model.bits_per_weight:.3f} | | {ruler(model)} | |"
        print(before, flush=True)
        for name in args.ways:
            started = time.process_time()
            settings = replace(WAYS[name], iterations=args.iterations, rate=args.rate)
            better, training = tuned(model, settings, questions, held_out)
            seconds = time.process_time() - started
            before_db, after_db = training.history.points[0].sqnr_db, training.best_point.sqnr_db
            print(
                f"| {path.stem} | {name} | {better.bits_per_weight:.3f} "
                f"| {before_db:.2f} → {after_db:.2f} | {ruler(better)} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
