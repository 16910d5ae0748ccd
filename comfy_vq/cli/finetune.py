"""`finetune`: a quantized model learns from the one that it was made of."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .. import checkpoint
from ..errors import VQError
from ..finetune.rounds import Progress, Pupil, fine_tune
from ..finetune.training import CODE_RATE, Settings
from ..hosts.comfy_boot import boot
from ..hosts.locate import find_comfyui
from ..model import VQModel
from . import arguments
from .evaluate import CFG, SHIPPED, add_sampling, family_of
from .progress import FORMAT
from .prompts import texts_of

_MINUTES = 10.0


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "finetune",
        help="teach a quantized model to predict what its original predicts",
        description=(
            "Sample the original, teach a VQ model made of it the same predictions, then those that it "
            "meets while it samples itself. The size stays as it is; prompts that are not learned from "
            "decide what is kept. Interrupted, the same command goes on where it was."
        ),
    )
    parser.add_argument("teacher", type=Path, metavar="TEACHER", help="the original, of any kind")
    parser.add_argument("student", type=Path, metavar="STUDENT", help="a VQ file made of it")
    arguments.add_destination(parser, "out", "the VQ file to write")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument(
        "--minutes", type=float, help=f"of learning, recording aside; default: {_MINUTES:g}"
    )
    limit.add_argument("--iterations", type=arguments.count, metavar="N", help="instead of minutes")
    parser.add_argument(
        "--rate",
        type=float,
        default=Settings.rate,
        help="of learning, relative to the size of what learns, to begin with: steps that turn out too long are "
        "shortened; default: %(default)s",
    )
    parser.add_argument(
        "--rows",
        type=arguments.count,
        default=Settings.rows,
        metavar="N",
        help="predictions learned from at a time; default: %(default)s",
    )
    parser.add_argument(
        "--move-codes",
        action="store_true",
        help="let codes change too: never seen to help a real model; takes 12 bytes per weight",
    )
    parser.add_argument(
        "--keep-codebooks",
        action="store_true",
        help="leave codebooks as they are, such as the shipped ones",
    )
    parser.add_argument(
        "--keep-activations",
        action="store_true",
        help="faster, and much more memory than to compute them twice",
    )
    add_sampling(parser)
    arguments.add_save_every(parser)
    parser.add_argument("--curve", type=Path, metavar="PNG", help="draw how learning went")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    # Only here: it needs packages that most commands do not.
    from ..finetune.report import to_text

    for path in (args.teacher, args.student):
        if not path.is_file():
            raise VQError(f"{path}: no such file; check the path")
    arguments.check_destination(args.out, args.force)
    model = checkpoint.load(args.student)
    arguments.check_space(args.out, model.nbytes)
    state = args.out.with_name(f"{args.out.name}.state")
    seconds = None if args.iterations else 60 * (args.minutes or _MINUTES)
    settings = Settings(
        iterations=args.iterations,
        seconds=seconds,
        rows=args.rows,
        rate=args.rate,
        codebooks=not args.keep_codebooks,
        code_rate=CODE_RATE if args.move_codes else 0.0,
        seed=args.seed,
    )
    with _bar() as (say, show):
        if state.exists():
            say(f"going on from {state}")
        pupil, allowed = _pupil(args, model)
        with allowed:
            outcome = fine_tune(
                pupil,
                settings,
                recompute=not args.keep_activations,
                state=state,
                about=arguments.asked(args, {"teacher": args.teacher, "student": args.student}),
                save_every=args.save_every,
                say=say,
                on_progress=show,
            )
    beside = checkpoint.inspect(args.student).components  # encoders in the same file stay in it
    components = {name: checkpoint.load_component(args.student, name) for name in beside}
    checkpoint.save(args.out, outcome.model, components=components)
    if args.curve is not None:
        _draw(args.curve, outcome.points)
    state.unlink(missing_ok=True)
    print(f"\n{to_text(args.out.name, outcome)}")


def _pupil(args: argparse.Namespace, model: VQModel) -> tuple[Pupil, Any]:
    """The host, and what it needs around learning."""
    comfyui = None if args.host == "diffusers" else find_comfyui()
    shipped = family_of(args.teacher) == SHIPPED
    if comfyui is None and (args.host == "comfyui" or not shipped):
        raise VQError(
            "no ComfyUI was found, through which models are sampled (diffusers: the shipped model "
            "alone); name its folder in the environment variable COMFYUI_PATH"
        )
    if comfyui is None:
        from ..demo.finetuning import DiffusersPupil
        from ..demo.model_files import model_files

        autoencoder = model_files().autoencoder
        return (
            DiffusersPupil(args.teacher, model, autoencoder, _captions(args), args.seed),
            nullcontext(),
        )
    boot(comfyui)
    from ..hosts.comfy.evaluation.candidates import load_candidate
    from ..hosts.comfy.evaluation.files import Sampling, asked_of
    from ..hosts.comfy.finetuning import ComfyPupil, learning_allowed
    from ..hosts.comfy.model.loader import InMemory, load

    if shipped:
        from ..demo import task
        from ..demo.with_comfyui import asked

        cfg = task.GUIDANCE if args.cfg is None else args.cfg
        prompts, sampling = asked(
            _captions(args), args.seed, args.steps, cfg, args.sampler or "ddim"
        )
        teacher = load_candidate(args.teacher)
    else:
        how = Sampling(
            texts=_repeated(texts_of(args.prompts), args.count),
            steps=args.steps,
            cfg=CFG if args.cfg is None else args.cfg,
            sampler=args.sampler or "euler",
            size=args.size,
            clip=args.clip,
            clip_type=args.clip_type,
            seed=args.seed,
        )
        teacher, prompts, sampling, _, _ = asked_of(args.teacher, how)
    student = load(InMemory(model))
    return ComfyPupil(teacher, student, prompts, sampling, lambda: None), learning_allowed()


def _captions(args: argparse.Namespace) -> list[str]:
    """Of the shipped model: scenes that it was trained on, so that others are left to measure by."""
    from ..demo import scenes
    from ..evaluation.bench import spread

    if args.prompts is not None:
        raise VQError("--prompts: the shipped model knows scenes of its own only; use --count")
    return [scene.caption for scene in spread(scenes.training(), args.count or 32)]


def _repeated(texts: Sequence[str], count: int | None) -> list[str]:
    """So many prompts; those of a short list come again, with other seeds."""
    return list(islice(cycle(texts), count or len(texts)))


def _draw(path: Path, points: Sequence[Any]) -> None:
    try:
        from ..finetune.curve import draw_curve
    except ImportError as error:
        raise VQError("--curve: pip install matplotlib") from error
    from PIL import Image

    Image.fromarray(draw_curve(points)).save(path)


@contextmanager
def _bar() -> Iterator[tuple[Callable[[str], None], Callable[[Progress], None]]]:
    """How lines are printed above a bar of progress, and how that is moved."""
    with tqdm(desc="learning", total=1.0, bar_format=FORMAT, dynamic_ncols=True) as bar:

        def show(progress: Progress) -> None:
            left = ""
            if progress.seconds_left is not None:
                left = f"{tqdm.format_interval(round(progress.seconds_left))} left, "
            bar.set_postfix_str(f"{left}{progress.points[-1].sqnr_db:.2f} dB", refresh=False)
            bar.update(progress.done - bar.n)

        yield bar.write, show
