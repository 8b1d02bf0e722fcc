"""How far one drawing is from another of the same asks, figure by figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fluxfast.mini.reader import follows, read, shows
from fluxfast.mini.world import Edit
from fluxfast.quality.asks import Ask, Drawing
from fluxfast.quality.clip import Clip, clip_scores, image_features

FLAT = 0.02  # standard deviation of a picture that shows nothing
BLACK = 0.02  # mean
SAME_DB = 100.0  # PSNR beyond which pictures are as good as the same


@dataclass(frozen=True, kw_only=True)
class QualityMetric:
    """A figure with a bound. `summarize` makes it of all asks' values, which go by the name `of`
    (its own, if that is empty); `at_least`: more is better; `title` and `digits` are for tables.
    """

    name: str
    title: str
    digits: int
    summarize: Callable[[Sequence[float]], float]
    of: str = ""
    unit: str = ""
    at_least: bool = False

    def is_within(self, value: float, bound: float) -> bool:
        return value >= bound if self.at_least else value <= bound


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_up_to_same(values: Sequence[float]) -> float:
    """One picture that is the same, whose PSNR is infinite, does not stand for all."""
    return _mean([min(value, SAME_DB) for value in values])


QUALITY_METRICS = {
    metric.name: metric
    for metric in (
        QualityMetric(name="latent_relative_error", title="rel. error", summarize=max, digits=5),
        QualityMetric(name="latent_cosine", title="cosine", summarize=min, digits=5, at_least=True),
        QualityMetric(
            name="psnr_db", title="PSNR", summarize=min, unit="dB", digits=1, at_least=True
        ),
        # Published thresholds are of one picture or of a mean.
        QualityMetric(
            name="psnr_mean_db",
            title="mean",
            of="psnr_db",
            summarize=_mean_up_to_same,
            unit="dB",
            digits=1,
            at_least=True,
        ),
        QualityMetric(name="ssim", title="SSIM", summarize=min, digits=4, at_least=True),
        QualityMetric(name="clip_similarity", title="CLIP", summarize=min, digits=4, at_least=True),
        QualityMetric(name="clip_score_drop", title="CLIP drop", summarize=_mean, digits=2),
        QualityMetric(name="scenes_lost", title="lost", summarize=sum, digits=0),
    )
}


@dataclass(frozen=True, kw_only=True)
class Quality:
    """For each metric its value for each ask, in order. What could not be measured is left out."""

    values: Mapping[str, tuple[float, ...]]

    def has(self, name: str) -> bool:
        return (QUALITY_METRICS[name].of or name) in self.values

    def figure(self, name: str) -> float:
        return QUALITY_METRICS[name].summarize(self.values[QUALITY_METRICS[name].of or name])

    @property
    def figures(self) -> dict[str, float]:
        return {name: self.figure(name) for name in QUALITY_METRICS if self.has(name)}

    def shown(self, name: str) -> str:
        """The figure for a table, with its interval where it has one."""
        if not self.has(name):
            return "–"
        text = f"{self.figure(name):.{QUALITY_METRICS[name].digits}f}"
        if name != "clip_score_drop":
            return text
        return f"{text} ± {self.clip_interval():.2f}"

    def clip_interval(self) -> float:
        """Half of the 95% interval of the mean paired difference of CLIP scores (Student's t)."""
        from scipy.stats import ttest_1samp

        interval = ttest_1samp(self.values["clip_score_drop"], 0.0).confidence_interval(0.95)
        return float(interval.high - interval.low) / 2


def compare(
    drawn: Drawing, reference: Drawing, asks: Sequence[Ask], clip: Clip | None = None
) -> Quality:
    """What changed from `reference` to `drawn`; without `clip` its figures are left out."""
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    a, b = drawn.latents.flatten(1), reference.latents.flatten(1)
    now, before = drawn.images, reference.images
    values = dict(
        latent_relative_error=(a - b).norm(dim=1) / b.norm(dim=1),
        latent_cosine=torch.cosine_similarity(a, b, dim=1),
        psnr_db=psnr_db(now, before),
        # Where a picture is flat its variance cancels, so that one without a difference may read
        # 0.998; in float64 the filter takes 25 times as long on a CPU.
        ssim=ssim(now, before, data_range=1.0, reduction="none"),
    )
    if clip is not None:
        values |= _clip_figures(now, before, asks, clip)
    if asks[0].expected is not None:
        lost = zip(scenes_right(reference, asks), scenes_right(drawn, asks), strict=True)
        values["scenes_lost"] = torch.tensor([float(was and not now) for was, now in lost])
    return Quality(values={name: tuple(v.flatten().tolist()) for name, v in values.items()})


def psnr_db(images: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image [N] in [0, 1]; infinite where they are the same."""
    from torchmetrics.functional.image import peak_signal_noise_ratio as psnr

    return psnr(images, references, data_range=1.0, reduction="none", dim=(1, 2, 3))


def _clip_figures(
    images: Tensor, references: Tensor, asks: Sequence[Ask], clip: Clip
) -> dict[str, Tensor]:
    now, before = as_bytes(images), as_bytes(references)
    prompts = [ask.prompt for ask in asks]
    return dict(
        clip_similarity=(image_features(now, clip) * image_features(before, clip)).sum(dim=1),
        clip_score_drop=clip_scores(before, prompts, clip) - clip_scores(now, prompts, clip),
    )


def as_bytes(images: Tensor) -> list[Tensor]:
    """Images in [0, 1] as [3, H, W] bytes; what is not a number is black."""
    return list((images.nan_to_num(0).clamp(0, 1) * 255).round().byte())


def scenes_right(drawing: Drawing, asks: Sequence[Ask]) -> list[bool]:
    """Of each ask of the mini family: whether the picture shows it."""
    right = []
    for picture, ask in zip(as_bytes(drawing.images), asks, strict=True):
        reading, expected = read(picture.permute(1, 2, 0).numpy()), ask.expected
        assert expected is not None
        if isinstance(expected, Edit):
            right.append(follows(reading, expected))
        else:
            right.append(shows(reading, expected))
    return right


def faults(drawing: Drawing) -> list[str]:
    """What no picture may be, whatever was asked: not a number, black, or flat."""
    found = []
    for number, image in enumerate(drawing.images):
        if not image.isfinite().all() or not drawing.latents[number].isfinite().all():
            found.append(f"image {number} has values that are no numbers")
        elif image.std() < FLAT:
            found.append(f"image {number} is {'black' if image.mean() < BLACK else 'flat'}")
    return found
