"""What `generate` and `bench` share: flux-fast's options, and the pipeline that they ask for."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fluxfast.bench.cases.planned import PlannedCase, parse_resolution, planned_case, situation_of
from fluxfast.console import Console
from fluxfast.errors import FluxFastError
from fluxfast.hardware import Hardware, detect
from fluxfast.models.arguments import input_image
from fluxfast.models.weights import Checkpoint, WeightsKind, resolve
from fluxfast.optimizations.base import Artifacts, Axis, Situation
from fluxfast.optimizations.cache_config import read_cache_config
from fluxfast.optimizations.registry import choices, default_names, optimization_named
from fluxfast.pipeline.build import DEFAULT_ARTIFACTS, BuiltPipeline, build
from fluxfast.pipeline.observe import Observer, Region
from fluxfast.profiling.trace import write_trace

# Options of flux-fast that switch an axis off.
DISABLING = {
    "disable_bf16": Axis.DTYPE,
    "disable_fused_projections": Axis.PROJECTIONS,
    "disable_fa3": Axis.ATTENTION,
    "disable_channels_last": Axis.MEMORY_FORMAT,
    "disable_quant": Axis.QUANTIZATION,
    "disable_inductor_tuning_flags": Axis.COMPILER_FLAGS,
}

# And what switches on what a GPU has off.
ENABLING = {
    "enable_channels_last": "channels_last",
    "enable_inductor_tuning_flags": "inductor_flags",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """flux-fast's options by their own names, and what extends them."""
    image = parser.add_argument_group("image")
    image.add_argument(
        "--ckpt",
        default="black-forest-labs/FLUX.1-schnell",
        help="hub id, local folder, schnell, dev, kontext, or mini-dev and so on (%(default)s)",
    )
    image.add_argument(
        "--weights", default="auto", help="auto, hub, synthetic or mini (%(default)s)"
    )
    image.add_argument("--prompt", default="A cat playing with a ball of yarn")
    image.add_argument("--image", type=Path, help="input image of Kontext (a drawn test card)")
    image.add_argument("--num_inference_steps", type=int, help="denoising steps (the model's own)")
    image.add_argument("--guidance_scale", type=float, help="guidance (the model's own)")
    image.add_argument("--resolution", help="HEIGHTxWIDTH in pixels (the weights' own)")
    image.add_argument("--batch_size", type=int, help="images of the prompt at a time (1)")
    image.add_argument("--seed", type=int, default=42)
    image.add_argument("--output-file", type=Path, default=Path("output.png"))
    image.add_argument("--trace-file", type=Path, help="write a Chrome trace of one more image")
    image.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")

    tuning = parser.add_argument_group("optimizations (on by default where the hardware has them)")
    tuning.add_argument("--attention", choices=_names(Axis.ATTENTION), default="auto")
    tuning.add_argument("--quant", choices=_names(Axis.QUANTIZATION), default="auto")
    tuning.add_argument(
        "--compile_export_mode",
        choices=["auto", "disabled", *(o.name for o in choices(Axis.COMPILE))],
        default="auto",
    )
    tuning.add_argument("--cache_dit_config", type=Path, metavar="YAML", help="switch DBCache on")
    for name in ENABLING:
        tuning.add_argument(f"--{name}", action="store_true", help="off by default on a GPU")
    for name, axis in DISABLING.items():
        tuning.add_argument(
            f"--{name}", action="store_true", help=f"no {axis.value.replace('_', ' ')}"
        )
    tuning.add_argument(
        "--enable",
        action="append",
        default=[],
        metavar="NAME",
        help="an optimization that `fluxfast doctor` names; repeat for more",
    )
    tuning.add_argument(
        "--disable", action="append", default=[], metavar="NAME", help="and one to leave out"
    )
    tuning.add_argument(
        "--cache-dir",
        type=Path,
        default=DEFAULT_ARTIFACTS.folder,
        help="folder of exported packages (%(default)s)",
    )
    tuning.add_argument(
        "--use-cached-model", action="store_true", help="load the exported package, do not make it"
    )


def _names(axis: Axis) -> list[str]:
    return ["auto", "none", *(o.name for o in choices(axis))]


def chosen_axes(options: argparse.Namespace) -> dict[Axis, str | None]:
    """What the options fix; an axis that they leave to the machine is absent."""
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
    for name, optimization in ENABLING.items():
        if getattr(options, name):
            chosen[optimization_named(optimization).axis] = optimization
    for name in options.enable:
        _check_one_of_its_kind(name, chosen)
        chosen[optimization_named(name).axis] = name
    switched_off = [(name, axis) for name, axis in DISABLING.items() if getattr(options, name)]
    switched_off += [(f"disable {name}", optimization_named(name).axis) for name in options.disable]
    for option, axis in switched_off:
        _check_not_both(option, axis, chosen)
        chosen[axis] = None
    return chosen


def _check_one_of_its_kind(name: str, chosen: dict[Axis, str | None]) -> None:
    other = chosen.get(optimization_named(name).axis, name)
    if other != name:
        raise FluxFastError(
            "two options decide the same",
            got=f"{other or 'none'} and --enable {name}",
            allowed="one of the two",
            remedy=f"leave --enable {name} out",
        )


def _check_not_both(option: str, axis: Axis, chosen: dict[Axis, str | None]) -> None:
    if chosen.get(axis):
        raise FluxFastError(
            "one option asks for what another switches off",
            got=f"{chosen[axis]} and --{option}",
            allowed="one of the two",
            remedy=f"leave --{option} out",
        )


def planned_from(options: argparse.Namespace) -> PlannedCase:
    """The checkpoint, the request and the checked plan that the options ask for."""
    hardware = detect(options.device)
    checkpoint = resolve(options.ckpt, options.weights, hardware)
    situation = _situation(options, checkpoint, hardware)
    _check_used(options, situation)
    return planned_case(default_names(situation, chosen_axes(options)), checkpoint, situation)


def _check_used(options: argparse.Namespace, situation: Situation) -> None:
    """An option that this model or mode has no use for is a mistake, not a whim."""
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
                "this option would have no effect",
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
    """The pipeline, with a line for what it is and one for each stage."""
    hardware, checkpoint = planned.plan.situation.hardware, planned.checkpoint
    console.say(f"{hardware.name} ({hardware.architecture}), torch {hardware.packages['torch']}")
    console.say(f"{checkpoint.model.name}, {checkpoint.kind} weights ({checkpoint.why})")
    if checkpoint.kind is WeightsKind.SYNTHETIC:
        console.say("these weights are generated: timings are real, pictures are not")
    console.say(f"optimizations: {' + '.join(planned.plan.names) or 'none'}")
    artifacts = Artifacts(folder=options.cache_dir, use_cached=options.use_cached_model)
    return build(checkpoint, planned.plan, artifacts=artifacts, progress=console.stage)


class StepProgress(Observer):
    """A line for each tenth of the denoising steps, with the time left."""

    def __init__(self, console: Console, steps: int) -> None:
        self.console, self.steps, self.done, self.since = console, steps, 0, time.monotonic()

    def enter(self, region: Region) -> None:
        if region is Region.DENOISING_STEP and self.done == 0:
            self.since = time.monotonic()

    def exit(self, region: Region) -> None:
        if region is Region.DENOISING_STEP:
            self.done += 1
            if self.done % max(1, self.steps // 10) == 0:
                self.console.progress("step", self.done, self.steps, self.since)


def save(
    images: list[Any], built: BuiltPipeline, options: argparse.Namespace, console: Console
) -> None:
    """The images, and the trace where one is asked for."""
    _save_images(images, options.output_file, console)
    if options.trace_file:
        write_trace(built, options.trace_file)
        console.say(f"wrote {options.trace_file}")


def _save_images(images: list[Any], path: Path, console: Console) -> None:
    """One file, or several with a number, written whole or not at all."""
    for number, image in enumerate(images):
        place = path if len(images) == 1 else path.with_stem(f"{path.stem}-{number + 1}")
        temporary = place.with_name(f".{place.name}.part{place.suffix}")
        try:
            image.save(temporary)
            temporary.replace(place)
        except (OSError, ValueError) as error:
            raise FluxFastError(
                "the image cannot be written",
                got=f"{place}: {error}",
                allowed="a file name with an ending Pillow knows, in a folder that can be written",
                remedy="as --output-file picture.png",
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        console.say(f"wrote {place}")
