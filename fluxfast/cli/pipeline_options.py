"""The options and the pipeline that `fluxfast generate` and `fluxfast bench` share.

flux-fast's options keep their names.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fluxfast.bench.cases.planned import PlannedCase, parse_resolution, planned_case, situation_of
from fluxfast.console import Console
from fluxfast.errors import FluxFastError
from fluxfast.files import check_writable, replacing
from fluxfast.hardware import Hardware, detect
from fluxfast.models.arguments import input_image
from fluxfast.models.spec import DEFAULT_PROMPT
from fluxfast.models.weights import Checkpoint, WeightsKind, resolve
from fluxfast.optimizations.base import Artifacts, Axis, Optimization, Situation
from fluxfast.optimizations.cache_config import read_cache_config
from fluxfast.optimizations.registry import (
    choices,
    default_names,
    optimization_named,
    optimizations,
)
from fluxfast.pipeline.build import DEFAULT_ARTIFACTS, BuiltPipeline, build
from fluxfast.pipeline.observe import Observer, Region
from fluxfast.profiling.trace import write_trace

# Options of flux-fast that disable an axis.
DISABLING = {
    "disable_bf16": Axis.DTYPE,
    "disable_fused_projections": Axis.PROJECTIONS,
    "disable_fa3": Axis.ATTENTION,
    "disable_channels_last": Axis.MEMORY_FORMAT,
    "disable_quant": Axis.QUANTIZATION,
    "disable_inductor_tuning_flags": Axis.COMPILER_FLAGS,
}


def _enabling() -> dict[str, Optimization]:
    """Return the options that enable an optimization which is off by default somewhere."""
    return {o.option: o for o in optimizations().values() if o.option}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add flux-fast's options under their own names, and those that extend them."""
    _add_image_options(parser.add_argument_group("image"))
    _add_optimization_options(
        parser.add_argument_group(
            "optimizations (`fluxfast doctor` lists the defaults of this machine)"
        )
    )


def _add_image_options(image: argparse._ArgumentGroup) -> None:
    image.add_argument(
        "--ckpt",
        default="black-forest-labs/FLUX.1-schnell",
        help="schnell, dev, kontext, one of these after mini-, a hub id, or a local folder "
        "(default: %(default)s)",
    )
    image.add_argument(
        "--weights",
        default="auto",
        help="auto, hub, synthetic or mini; auto takes mini on a CPU, on a GPU the local "
        "Hugging Face cache, else synthetic (default: auto)",
    )
    image.add_argument(
        "--prompt",
        help=f'text of the image, or Kontext\'s instruction (default: "{DEFAULT_PROMPT}"; on mini '
        "weights a caption of their world)",
    )
    image.add_argument(
        "--image",
        type=Path,
        help="Kontext's input image, required by generate (default of bench: a test card)",
    )
    image.add_argument(
        "--num_inference_steps",
        type=int,
        help="denoising steps, 1 or more (default: the model's, 4 or 28)",
    )
    image.add_argument(
        "--guidance_scale",
        type=float,
        help="guidance of dev and kontext (default: the model's, 3.5 or 2.5)",
    )
    image.add_argument(
        "--resolution",
        help="HEIGHTxWIDTH in pixels, multiples of 16 (default: 1024x1024; mini 256x256)",
    )
    image.add_argument(
        "--batch_size", type=int, help="images of the prompt in one call (default: 1)"
    )
    image.add_argument("--seed", type=int, default=42, help="seed of the noise (default: 42)")
    image.add_argument(
        "--output-file",
        type=Path,
        default=Path("output.png"),
        help="image file; the ending chooses the format (default: %(default)s)",
    )
    image.add_argument(
        "--trace-file",
        type=Path,
        help="write a Chrome trace of one more image to this .json or .json.gz (default: none)",
    )
    image.add_argument(
        "--device",
        choices=["auto", "cuda", "cpu"],
        default="auto",
        help="where to run (default: a GPU if there is one)",
    )


def _add_optimization_options(tuning: argparse._ArgumentGroup) -> None:
    tuning.add_argument(
        "--attention",
        choices=_names(Axis.ATTENTION),
        default="auto",
        help="attention kernel; none is diffusers' own (default: auto, the machine's default)",
    )
    tuning.add_argument(
        "--quant",
        choices=_names(Axis.QUANTIZATION),
        default="auto",
        help="quantization of the transformer (default: auto, the machine's default)",
    )
    tuning.add_argument(
        "--compile_export_mode",
        choices=["auto", "disabled", *(o.name for o in choices(Axis.COMPILE))],
        default="auto",
        help="how to compile the transformer (default: auto, the machine's default)",
    )
    tuning.add_argument(
        "--cache_dit_config",
        type=Path,
        metavar="YAML",
        help="enable DBCache, which skips steps, with these settings (default: off)",
    )
    for name, optimization in _enabling().items():
        tuning.add_argument(
            f"--{name}",
            action="store_true",
            help=f"enable {optimization.name} where it is off by default",
        )
    for name, axis in DISABLING.items():
        tuning.add_argument(
            f"--{name}",
            action="store_true",
            help=f"disable the default of the axis {axis.value}",
        )
    tuning.add_argument(
        "--enable",
        action="append",
        default=[],
        metavar="NAME",
        help="enable an optimization that `fluxfast doctor` lists; repeat for more",
    )
    tuning.add_argument(
        "--disable",
        action="append",
        default=[],
        metavar="NAME",
        help="disable an optimization that is on by default; repeat for more",
    )
    tuning.add_argument(
        "--cache-dir",
        type=Path,
        default=DEFAULT_ARTIFACTS.folder,
        help="folder of exported packages, for export_aoti (default: %(default)s)",
    )
    tuning.add_argument(
        "--use-cached-model",
        action="store_true",
        help="load the exported package from --cache-dir instead of exporting it again",
    )


def _names(axis: Axis) -> list[str]:
    return ["auto", "none", *(o.name for o in choices(axis))]


def chosen_axes(options: argparse.Namespace) -> dict[Axis, str | None]:
    """Return what the options decide: by axis an optimization, or None to leave the axis out.

    An axis that the options leave to the machine's defaults is absent.

    Raises:
        FluxFastError: two options contradict each other.
    """
    chosen = _chosen_by_axis_options(options)
    for name, optimization in _enabling().items():
        if getattr(options, name):
            chosen[optimization.axis] = optimization.name
    for name in options.enable:
        _check_one_choice(name, chosen)
        chosen[optimization_named(name).axis] = name
    for option, axis in _disabled(options):
        _check_not_enabled(option, axis, chosen)
        chosen[axis] = None
    return chosen


def _chosen_by_axis_options(options: argparse.Namespace) -> dict[Axis, str | None]:
    chosen: dict[Axis, str | None] = {}
    for axis, value in (
        (Axis.ATTENTION, options.attention),
        (Axis.QUANTIZATION, options.quant),
        (Axis.COMPILE, options.compile_export_mode),
    ):
        if value != "auto":
            chosen[axis] = None if value in ("none", "disabled") else value
    if options.use_cached_model and options.compile_export_mode == "auto":
        chosen[Axis.COMPILE] = "export_aoti"
    if options.cache_dit_config:
        chosen[Axis.CACHE] = "dbcache"
    return chosen


def _disabled(options: argparse.Namespace) -> list[tuple[str, Axis]]:
    """Return each option that disables an axis, without its dashes, and the axis."""
    disabled = [(name, axis) for name, axis in DISABLING.items() if getattr(options, name)]
    return disabled + [
        (f"disable {name}", optimization_named(name).axis) for name in options.disable
    ]


def _check_one_choice(name: str, chosen: dict[Axis, str | None]) -> None:
    other = chosen.get(optimization_named(name).axis, name)
    if other != name:
        raise FluxFastError(
            "two options choose different optimizations of one axis",
            got=f"{other or 'none'} and --enable {name}",
            allowed="one of the two",
            remedy=f"leave --enable {name} out",
        )


def _check_not_enabled(option: str, axis: Axis, chosen: dict[Axis, str | None]) -> None:
    if chosen.get(axis):
        raise FluxFastError(
            "one option enables what another disables",
            got=f"{chosen[axis]} and --{option}",
            allowed="one of the two",
            remedy=f"leave --{option} out",
        )


def planned_from(options: argparse.Namespace) -> PlannedCase:
    """Return the checkpoint and the checked plan of the options; nothing is loaded yet.

    Raises:
        FluxFastError: an option is wrong, has no effect, or a file cannot be read or written.
    """
    if options.output_file:
        _check_image_file(options.output_file)
    if options.trace_file:
        check_writable(options.trace_file, creates_folder=True)
    hardware = detect(options.device)
    checkpoint = resolve(options.ckpt, options.weights, hardware)
    situation = _situation(options, checkpoint, hardware)
    _check_options_apply(options, situation)
    return planned_case(default_names(situation, chosen_axes(options)), checkpoint, situation)


def _check_image_file(path: Path) -> None:
    """Refuse an image file that cannot be written before minutes are spent on its content."""
    from PIL import Image

    known = Image.registered_extensions()
    if known.get(path.suffix.lower()) not in Image.SAVE:
        raise FluxFastError(
            "unknown image format",
            got=path,
            allowed="an ending that Pillow can write, as .png, .jpg or .webp",
            remedy="for example: --output-file image.png",
        )
    check_writable(path)


def _check_options_apply(options: argparse.Namespace, situation: Situation) -> None:
    """Refuse an option that has no effect on this model or mode."""
    model = situation.model
    unused = {
        "--image": options.image is not None and not model.takes_image,
        "--guidance_scale": options.guidance_scale is not None and not model.guidance_embeds,
        "--use-cached-model": options.use_cached_model
        and options.compile_export_mode not in ("auto", "export_aoti"),
    }
    for option, is_unused in unused.items():
        if is_unused:
            raise FluxFastError(
                "this option has no effect here",
                got=f"{option} with {model.name}, --compile_export_mode "
                f"{options.compile_export_mode}",
                allowed="--image with kontext, --guidance_scale with dev and kontext, "
                "--use-cached-model with export_aoti",
                remedy=f"leave {option} out",
            )
    if model.takes_image:
        input_image(options.image, situation.request.width, situation.request.height)


def _situation(
    options: argparse.Namespace, checkpoint: Checkpoint, hardware: Hardware
) -> Situation:
    resolution = options.resolution
    height, width = parse_resolution(resolution) if resolution else (None, None)
    situation = situation_of(
        checkpoint,
        hardware,
        prompt=options.prompt,
        image_path=options.image,
        num_inference_steps=options.num_inference_steps,
        guidance_scale=options.guidance_scale,
        height=height,
        width=width,
        batch_size=options.batch_size,
        seed=options.seed,
    )
    if options.cache_dit_config is None:
        return situation
    return replace(situation, cache_config=read_cache_config(options.cache_dit_config))


def build_from(
    options: argparse.Namespace, planned: PlannedCase, console: Console
) -> BuiltPipeline:
    """Build the pipeline, and print what it consists of and each stage."""
    hardware, checkpoint = planned.plan.situation.hardware, planned.checkpoint
    console.say(f"{hardware.name} ({hardware.architecture}), torch {hardware.packages['torch']}")
    console.say(f"{checkpoint.model.name}, {checkpoint.kind} weights ({checkpoint.why})")
    if checkpoint.kind is WeightsKind.SYNTHETIC:
        console.say("synthetic weights: the timings are real, the images are noise")
    console.say(f"optimizations: {' + '.join(planned.plan.names) or 'none'}")
    artifacts = Artifacts(folder=options.cache_dir, use_cached=options.use_cached_model)
    return build(checkpoint, planned.plan, artifacts=artifacts, progress=console.stage)


class StepProgress(Observer):
    """Print a line for each tenth of the denoising steps, with the time left."""

    def __init__(self, console: Console, steps: int) -> None:
        """Begin with no step done, of `steps`."""
        self.console, self.steps, self.done, self.since = console, steps, 0, time.monotonic()

    def enter(self, region: Region) -> None:
        """Do nothing: steps count when they end."""

    def exit(self, region: Region) -> None:
        """Count a step, and print a line after each tenth of them.

        The first step may compile, so the time left is that of the steps after it.
        """
        if region is not Region.DENOISING_STEP:
            return
        self.done += 1
        if self.done == 1:
            self.since = time.monotonic()
        if self.done % max(1, self.steps // 10) == 0:
            self.console.stage(f"step {self.done}/{self.steps}{self._left_text()}")

    def _left_text(self) -> str:
        timed, left = self.done - 1, self.steps - self.done
        if not timed or not left:
            return ""
        return f", {(time.monotonic() - self.since) / timed * left:.0f} s left"


def save(
    images: list[Any], built: BuiltPipeline, options: argparse.Namespace, console: Console
) -> None:
    """Write the images and the trace that were requested.

    Raises:
        FluxFastError: a file cannot be written.
    """
    if options.output_file:
        _save_images(images, options.output_file, console)
    if options.trace_file:
        write_trace(built, options.trace_file)
        console.say(f"wrote {options.trace_file}")


def _save_images(images: list[Any], path: Path, console: Console) -> None:
    """Write one file, or several with a number before the ending."""
    for number, image in enumerate(images, start=1):
        numbered = path if len(images) == 1 else path.with_stem(f"{path.stem}-{number}")
        with replacing(numbered, ValueError) as temporary:
            image.save(temporary)
        console.say(f"wrote {numbered}")
