"""The options of `fluxfast generate` and `fluxfast bench`; flux-fast's keep their names."""

from __future__ import annotations

import argparse
from pathlib import Path

from fluxfast.errors import FluxFastError
from fluxfast.files import stated_path
from fluxfast.models.spec import DEFAULT_PROMPT
from fluxfast.models.weights import WEIGHTS_CHOICES
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Optimization
from fluxfast.optimizations.presets import PRESETS
from fluxfast.optimizations.registry import choices, optimization_named, optimizations
from fluxfast.pipeline.apply import DEFAULT_ARTIFACTS

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
        help=f"{', '.join(WEIGHTS_CHOICES)}; auto takes mini on a CPU, on a GPU the local "
        "Hugging Face cache, else synthetic (default: auto)",
    )
    image.add_argument(
        "--prompt",
        help=f'text of the image, or Kontext\'s instruction (default: "{DEFAULT_PROMPT}"; on mini '
        "weights a caption of their world)",
    )
    image.add_argument(
        "--image",
        type=stated_path,
        help="Kontext's input image, required by generate (default of bench: a test card; on mini "
        "weights a scene of their world)",
    )
    image.add_argument(
        "--num_inference_steps",
        type=int,
        help="denoising steps, 1 to 1000 (default: the model's, 4 or 28)",
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
        type=stated_path,
        default=Path("output.png"),
        help="image file; the ending chooses the format (default: output.png; bench --json: none)",
    )
    image.add_argument(
        "--trace-file",
        type=stated_path,
        help="write a Chrome trace of one more image to this .json or .json.gz (default: none)",
    )
    image.add_argument(
        "--device",
        choices=["auto", "cuda", "cpu"],
        default="auto",
        help="where to run (default: a GPU if there is one)",
    )
    image.add_argument(
        "--gpus",
        type=int,
        default=1,
        help="GPUs that share the image; on a CPU, processes (default: 1)",
    )


def _add_optimization_options(tuning: argparse._ArgumentGroup) -> None:
    tuning.add_argument(
        "--preset",
        choices=PRESETS,
        default="default",
        help="the optimizations that the options below change (default: default, this machine's)",
    )
    tuning.add_argument(
        "--attention",
        choices=_names(Axis.ATTENTION),
        default="auto",
        help="attention kernel; none is diffusers' own (default: auto, the preset's)",
    )
    tuning.add_argument(
        "--quant",
        choices=_names(Axis.QUANTIZATION),
        default="auto",
        help="quantization of the transformer (default: auto, the preset's)",
    )
    tuning.add_argument(
        "--unquantized",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave block layers of this name unquantized, as '*.ff.net.2'; repeat for more",
    )
    tuning.add_argument(
        "--compile_export_mode",
        choices=["auto", "disabled", *(o.name for o in choices(Axis.COMPILE))],
        default="auto",
        help="how to compile the transformer (default: auto, the preset's)",
    )
    tuning.add_argument(
        "--cache_dit_config",
        metavar="SETTINGS",
        help="enable DBCache, which skips steps, with the settings of a file, or with quality, "
        "balanced or fast (default: off)",
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
        help="leave an optimization out for the next best default of its axis; repeat for more",
    )
    tuning.add_argument(
        "--cache-dir",
        type=stated_path,
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

    An axis that the options leave to the preset is absent.

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
    for option, axis in DISABLING.items():
        if getattr(options, option):
            _check_not_enabled(option, chosen.get(axis))
            chosen[axis] = None
    for name in options.disable:
        if chosen.get(optimization_named(name).axis) == name:
            _check_not_enabled(f"disable {name}", name)
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


def _check_one_choice(name: str, chosen: dict[Axis, str | None]) -> None:
    other = chosen.get(optimization_named(name).axis, name)
    if other != name:
        raise FluxFastError(
            "two options choose different optimizations of one axis",
            got=f"{other or 'none'} and --enable {name}",
            allowed="one of the two",
            remedy=f"leave --enable {name} out",
        )


def _check_not_enabled(option: str, enabled: str | None) -> None:
    if enabled:
        raise FluxFastError(
            "one option enables what another disables",
            got=f"{enabled} and --{option}",
            allowed="one of the two",
            remedy=f"leave --{option} out",
        )
