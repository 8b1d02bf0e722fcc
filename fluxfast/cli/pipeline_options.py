"""The pipeline that `fluxfast generate` and `fluxfast bench` share: plan, build, progress, save."""

from __future__ import annotations

import argparse
import io
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fluxfast.bench.cases.planned import PlannedCase, parse_resolution, planned_case, situation_of
from fluxfast.cli.arguments import chosen_axes
from fluxfast.console import Console
from fluxfast.errors import FluxFastError
from fluxfast.files import check_writable, replacing
from fluxfast.hardware import Hardware, detect
from fluxfast.models.architecture import MINI
from fluxfast.models.arguments import input_image, input_image_changes
from fluxfast.models.dropped_text import dropped_text
from fluxfast.models.memory import check_images_fit, out_of_memory_as_error
from fluxfast.models.spec import ImageRequest, check_requestable
from fluxfast.models.weights import Checkpoint, resolve
from fluxfast.optimizations.base import Artifacts
from fluxfast.optimizations.cache_config import cache_config_from
from fluxfast.optimizations.presets import changed_preset
from fluxfast.optimizations.situation import Situation
from fluxfast.optimizations.unquantized import check_quantizes, unquantized_layers
from fluxfast.pipeline.build import BuiltPipeline, build
from fluxfast.pipeline.observe import Observer, Region
from fluxfast.profiling.trace import write_trace


def planned_from(options: argparse.Namespace) -> PlannedCase:
    """Return the checkpoint and the checked plan of the options; nothing is loaded yet.

    Raises:
        FluxFastError: an option is wrong, has no effect, or a file cannot be read or written.
    """
    hardware = detect(options.device, options.gpus)
    checkpoint = resolve(options.ckpt, options.weights, hardware)
    check_requestable(checkpoint.model)
    situation = _situation(options, checkpoint, hardware)
    request = situation.request
    # A checkpoint of one's own may be as small as the mini family.
    smallest = MINI if checkpoint.own_blocks else checkpoint.architecture
    check_images_fit(request, smallest, hardware)
    if options.output_file:
        _check_image_file(options.output_file, request)
    if options.trace_file:
        _check_trace_file(options.trace_file)
    _check_options_apply(options, situation)
    chosen = chosen_axes(options)
    names = changed_preset(options.preset, situation, chosen, excluding=options.disable)
    planned = planned_case(names, checkpoint, situation)
    check_quantizes([planned.plan.names], situation.unquantized)
    if "export_aoti" in planned.plan.names and not options.use_cached_model:
        check_writable(options.cache_dir / "package", creates_folder=True)
    return planned


def _check_image_file(path: Path, request: ImageRequest) -> None:
    """Refuse an image file that cannot be written before minutes are spent on its content."""
    from PIL import Image

    known = Image.registered_extensions().get(path.suffix.lower())
    try:
        # A format may take no colours, or limit the sides: WebP has 16383 pixels at most.
        for size in ((request.width, 1), (1, request.height)):
            Image.new("RGB", size).save(io.BytesIO(), known)
    except (KeyError, OSError, ValueError, AttributeError) as error:
        raise FluxFastError(
            "unknown image format" if known not in Image.SAVE else "unsuitable image format",
            got=f"{path}: {error}" if known in Image.SAVE else path,
            allowed="an ending that Pillow can write, as .png, .jpg or .webp",
            remedy="for example: --output-file image.png",
        ) from error
    check_writable(path)


def _check_trace_file(path: Path) -> None:
    check_writable(path, creates_folder=True)
    if not path.name.endswith((".json", ".json.gz")):
        raise FluxFastError(
            "unknown trace format",
            got=path,
            allowed="an ending .json or .json.gz",
            remedy="for example: --trace-file trace.json.gz",
        )


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
    if options.image is not None:
        input_image(options.image, situation.request.width, situation.request.height)


def _situation(
    options: argparse.Namespace, checkpoint: Checkpoint, hardware: Hardware
) -> Situation:
    resolution = options.resolution
    height, width = parse_resolution(resolution) if resolution is not None else (None, None)
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
    unquantized = unquantized_layers(options.unquantized, checkpoint.block_counts)
    settings = options.cache_dit_config
    return replace(
        situation,
        cache_config=cache_config_from(settings) if settings is not None else None,
        unquantized=unquantized,
    )


def build_from(
    options: argparse.Namespace, planned: PlannedCase, console: Console
) -> BuiltPipeline:
    """Build the pipeline, and print what it consists of and each stage."""
    hardware, checkpoint = planned.plan.situation.hardware, planned.checkpoint
    count = f"{hardware.gpus} × " if hardware.gpus > 1 else ""
    machine = f"{count}{hardware.name} ({hardware.architecture})"
    console.print(f"{machine}, torch {hardware.packages['torch']}")
    console.print(f"{checkpoint.model.name}, {checkpoint.kind} weights ({checkpoint.why})")
    if checkpoint.kind.profile:
        console.print("synthetic weights: the timings are real, the images are noise")
    console.print(f"optimizations: {' + '.join(planned.plan.names) or 'none'}")
    if options.unquantized:
        console.print(f"unquantized: {', '.join(options.unquantized)}")
    artifacts = Artifacts(folder=options.cache_dir, use_cached=options.use_cached_model)
    built = build(checkpoint, planned.plan, artifacts=artifacts, progress=console.stage)
    for change in changed_inputs(built):
        console.print(change)
    return built


def changed_inputs(built: BuiltPipeline) -> list[str]:
    """Return what the pipeline does not use of the prompt and the input image, as lines."""
    request = built.request
    text = dropped_text(built.pipeline, request.prompt, request.max_sequence_length)
    lines = [f"prompt: {line}" for line in text]
    if request.image_path is not None:
        changes = input_image_changes(request.image_path, request.width, request.height)
        lines += [f"input image: {change}" for change in changes]
    return lines


def enough_memory(planned: PlannedCase) -> AbstractContextManager[None]:
    """Return a context in which a failed allocation is an error that names what to make smaller."""
    return out_of_memory_as_error(
        planned.case.id,
        planned.plan.situation.hardware,
        "choose a smaller --resolution or --batch_size, or another --quant",
    )


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
        console.print(f"wrote {options.trace_file}")


def _save_images(images: list[Any], path: Path, console: Console) -> None:
    """Write one file, or several with a number before the ending."""
    for number, image in enumerate(images, start=1):
        numbered = path if len(images) == 1 else path.with_stem(f"{path.stem}-{number}")
        with replacing(numbered, ValueError) as temporary:
            image.save(temporary)
        console.print(f"wrote {numbered}")
