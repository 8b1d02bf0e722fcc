"""LPIPS with torchvision's interface and a backbone in a temporary cache: nothing is downloaded."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torchmetrics.functional.image  # noqa: F401, it looks for torchvision when imported
from torch import nn

from fluxfast.quality.figures import QUALITY_METRICS
from fluxfast.quality.lpips import lpips, why_no_lpips
from fluxfast.quality.metrics import compare_images
from fluxfast.quality.prompts import GeneratedImages, Prompt

URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"


def alexnet_features():
    """Return the layers of AlexNet's features, as torchvision has them."""
    layers, inputs = [], 3
    for outputs, kernel, stride, padding, pooled in (
        (64, 11, 4, 2, True),
        (192, 5, 1, 2, True),
        (384, 3, 1, 1, False),
        (256, 3, 1, 1, False),
        (256, 3, 1, 1, True),
    ):
        layers += [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(3, 2)] if pooled else []
        inputs = outputs
    return nn.Sequential(*layers)


def alexnet(weights=None):
    features = alexnet_features()
    if weights:
        state = torch.hub.load_state_dict_from_url(weights.url)
        nn.Module.load_state_dict(SimpleModel(features), state)
    return SimpleNamespace(features=features)


class SimpleModel(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.features = features


@pytest.fixture
def torchvision(monkeypatch, tmp_path):
    """Install an interface of torchvision whose cache is empty; return the path of the backbone."""
    module, models = ModuleType("torchvision"), ModuleType("torchvision.models")
    module.__spec__ = models.__spec__ = SimpleNamespace(name="torchvision", loader=None)
    module.models, models.alexnet = models, alexnet
    models.AlexNet_Weights = SimpleNamespace(DEFAULT=SimpleNamespace(url=URL))
    monkeypatch.setitem(sys.modules, "torchvision", module)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    monkeypatch.setattr("torchmetrics.functional.image.lpips._TORCHVISION_AVAILABLE", True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)  # a download would fail
    return tmp_path / "checkpoints" / URL.rpartition("/")[2]


@pytest.fixture
def backbone(torchvision):
    torch.manual_seed(0)
    torchvision.parent.mkdir()
    torch.save(SimpleModel(alexnet_features()).state_dict(), torchvision)


def test_without_torchvision_or_its_weights_the_reason_is_named(torchvision, monkeypatch):
    assert str(torchvision) in why_no_lpips() and "nothing is downloaded" in why_no_lpips()
    monkeypatch.delitem(sys.modules, "torchvision")
    monkeypatch.setattr("fluxfast.quality.lpips.find_spec", lambda name: None)
    assert "the extra `lpips`" in why_no_lpips()


def test_the_distance_grows_with_the_difference(backbone):
    assert why_no_lpips() is None
    image = torch.rand(3, 3, 64, 64)
    noise = torch.randn(3, 3, 64, 64) * torch.tensor([0.0, 0.02, 0.2]).view(3, 1, 1, 1)
    none, little, much = lpips((image + noise), image)
    assert none == 0 < little < much
    broken = torch.full((1, 3, 64, 64), float("nan"))
    assert lpips(broken, image[:1]).isfinite().all() and lpips(image[:1], image[:1]).shape == (1,)


def test_lpips_stands_beside_the_other_figures(backbone):
    generated, reference = (
        GeneratedImages(images=torch.rand(2, 3, 64, 64), latents=torch.rand(2, 16, 64))
        for _ in range(2)
    )
    prompts = [Prompt(text="a cat", seed=0)] * 2
    quality = compare_images(generated, reference, prompts, with_lpips=True)
    worst, mean = quality.figure("lpips"), quality.figure("lpips_mean")
    assert worst == max(quality.values["lpips"]) > mean > 0
    assert not QUALITY_METRICS["lpips"].at_least and quality.formatted("lpips_mean")
    assert not compare_images(generated, reference, prompts).has("lpips")
