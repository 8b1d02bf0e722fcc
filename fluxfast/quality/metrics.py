"""Image-quality metrics: how far generated images are from a reference of the same prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fluxfast.mini.reader import follows, read, shows
from fluxfast.mini.world import Edit
from fluxfast.quality.clip import Clip, clip_scores, image_features
from fluxfast.quality.figures import QUALITY_METRICS, summarized
from fluxfast.quality.lpips import lpips
from fluxfast.quality.prompts import GeneratedImages, Prompt

FLAT = 0.02  # standard deviation below which an image shows nothing
BLACK = 0.02  # mean below which a flat image is black


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The measured quality of generated images.

    Attributes:
        values: by metric, the value of each prompt in order; metrics that could not be measured
            are absent.
    """

    values: Mapping[str, tuple[float, ...]]

    def has(self, name: str) -> bool:
        """Return whether this metric was measured."""
        return (QUALITY_METRICS[name].of or name) in self.values

    def figure(self, name: str) -> float:
        """Return the metric's figure over all prompts; NaN, which meets no bound, if one is NaN."""
        metric = QUALITY_METRICS[name]
        return summarized(metric.summarize, self.values[metric.of or name])

    @property
    def figures(self) -> dict[str, float]:
        """The figure of each metric that was measured, by name."""
        return {name: self.figure(name) for name in QUALITY_METRICS if self.has(name)}

    def formatted(self, name: str) -> str:
        """Return the figure for a table, with its 95% interval where it has one."""
        if not self.has(name):
            return "–"
        text = QUALITY_METRICS[name].formatted(self.figure(name))
        if name != "clip_score_drop":
            return text
        return f"{text} ± {self.clip_interval():.2f}"

    def clip_interval(self) -> float:
        """Return half the 95% interval of the mean paired CLIP score difference (Student's t)."""
        from scipy.stats import ttest_1samp

        interval = ttest_1samp(self.values["clip_score_drop"], 0.0).confidence_interval(0.95)
        return float(interval.high - interval.low) / 2


def compare_images(
    generated: GeneratedImages,
    reference: GeneratedImages,
    prompts: Sequence[Prompt],
    clip: Clip | None = None,
    *,
    with_lpips: bool = False,
) -> Quality:
    """Return the quality of `generated` against `reference`, both of the same prompts.

    Relative error is ‖latents − reference‖ / ‖reference‖. PSNR is in dB. SSIM follows Wang et al.
    2004, as torchmetrics implements it. Without `clip` its two metrics are left out, and LPIPS
    without `with_lpips`, which needs a backbone (`lpips.why_no_lpips`).
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    a, b = generated.latents.flatten(1), reference.latents.flatten(1)
    now, before = generated.images, reference.images
    values = dict(
        latent_relative_error=(a - b).norm(dim=1) / b.norm(dim=1),
        latent_cosine=torch.cosine_similarity(a, b, dim=1),
        psnr_db=psnr_db(now, before),
        # In a flat image the variances cancel, so that two equal images may score 0.998. In float64
        # the filter takes 25 times as long on a CPU.
        ssim=ssim(now, before, data_range=1.0, reduction="none"),
    )
    if with_lpips:
        values |= dict(lpips=lpips(now, before))
    if clip is not None:
        values |= _clip_values(now, before, prompts, clip)
    if prompts[0].expected is not None:
        lost = zip(
            shows_expected(reference, prompts), shows_expected(generated, prompts), strict=True
        )
        values["scenes_lost"] = torch.tensor([float(was and not now) for was, now in lost])
    return Quality(values={name: tuple(v.flatten().tolist()) for name, v in values.items()})


def psnr_db(images: Tensor, references: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each pair [N] in dB; infinite for equal images.

    Args:
        images: [N, 3, H, W] in [0, 1].
        references: of the same shape and range.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio as psnr

    values: Tensor = psnr(images, references, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return values


def _clip_values(
    images: Tensor, references: Tensor, prompts: Sequence[Prompt], clip: Clip
) -> dict[str, Tensor]:
    now, before = as_bytes(images), as_bytes(references)
    texts = [prompt.text for prompt in prompts]
    return dict(
        clip_similarity=(image_features(now, clip) * image_features(before, clip)).sum(dim=1),
        clip_score_drop=clip_scores(before, texts, clip) - clip_scores(now, texts, clip),
    )


def as_bytes(images: Tensor) -> list[Tensor]:
    """Return images [N, 3, H, W] in [0, 1] as uint8 tensors [3, H, W]; NaN becomes black."""
    return list((images.nan_to_num(0).clamp(0, 1) * 255).round().byte())


def shows_expected(generated: GeneratedImages, prompts: Sequence[Prompt]) -> list[bool]:
    """Return for each prompt of the mini family whether the image shows its scene or edit."""
    right = []
    for image, prompt in zip(as_bytes(generated.images), prompts, strict=True):
        reading, expected = read(image.permute(1, 2, 0).numpy()), prompt.expected
        assert expected is not None
        if isinstance(expected, Edit):
            right.append(follows(reading, expected))
        else:
            right.append(shows(reading, expected))
    return right


def image_defects(generated: GeneratedImages) -> list[str]:
    """Return the defects that no image may have: NaN or infinite values, all black, or flat."""
    found = []
    for number, image in enumerate(generated.images):
        if not image.isfinite().all() or not generated.latents[number].isfinite().all():
            found.append(f"image {number} has NaN or infinite values")
        elif image.std() < FLAT:
            found.append(f"image {number} is {'black' if image.mean() < BLACK else 'flat'}")
    return found
