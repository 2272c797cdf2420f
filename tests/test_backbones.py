"""The two networks and where their ImageNet weights come from."""

import pytest
import torch
import torchvision

from models.backbones import (
    GLANCE_CHECKPOINT,
    MobileNetV2Backbone,
    ResNet50Backbone,
    WeightsError,
    build_glance_network,
    load_imagenet_weights,
)


@pytest.fixture(scope="module")
def torchvision_networks():
    torch.manual_seed(3)
    return torchvision.models.mobilenet_v2(), torchvision.models.resnet50()


@pytest.fixture
def hub(tmp_path, monkeypatch, torchvision_networks):
    """A torch hub cache that holds torchvision's files for both networks, with weights of ours."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    mobilenet, resnet = torchvision_networks
    torch.save(mobilenet.state_dict(), folder / "mobilenet_v2-b0353104.pth")
    torch.save(resnet.state_dict(), folder / "resnet50-0676ba61.pth")
    return folder


def _frames() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_torchvisions_weights_give_torchvisions_features(hub, torchvision_networks, tmp_path):
    glance, focus = MobileNetV2Backbone().eval(), ResNet50Backbone().eval()
    said = load_imagenet_weights(glance, focus, directory=tmp_path)
    mobilenet, resnet = (network.eval() for network in torchvision_networks)
    assert "MobileNet_V2_Weights.IMAGENET1K_V1" in said[0] and "ResNet50_Weights.IMAGENET1K_V1" in said[1]
    torch.testing.assert_close(glance(_frames()), mobilenet.features(_frames()))
    pooled = focus(_frames()).mean(dim=(-2, -1))
    torch.testing.assert_close(focus.fc(pooled), resnet(_frames()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_published_file_comes_before_torchvisions(prefix, hub, tmp_path):
    published = MobileNetV2Backbone()
    path = tmp_path / GLANCE_CHECKPOINT
    path.parent.mkdir()
    torch.save({prefix + name: value for name, value in published.state_dict().items()}, path)
    glance = MobileNetV2Backbone()
    assert load_imagenet_weights(glance, ResNet50Backbone(), directory=tmp_path)[0] == f"glance network: {path}"
    assert all(torch.equal(a, b) for a, b in zip(glance.parameters(), published.parameters(), strict=True))


def test_a_named_file_comes_first_and_may_have_torchvisions_names(hub, tmp_path, torchvision_networks):
    path = tmp_path / "named.pth"
    torch.save(torchvision_networks[0].state_dict(), path)
    glance = MobileNetV2Backbone()
    load_imagenet_weights(glance, ResNet50Backbone(), path, tmp_path)
    assert torch.equal(glance.classifier.weight, torchvision_networks[0].classifier[1].weight)


def test_a_resnet_glances_with_weights_of_its_own(hub, tmp_path, torchvision_networks):
    glance = build_glance_network("res50")
    load_imagenet_weights(glance, ResNet50Backbone(), directory=tmp_path)
    assert torch.equal(glance.layer1[0].conv1.weight, torchvision_networks[1].layer1[0].conv1.weight)


def test_files_that_do_not_fit_are_refused(hub, tmp_path, torchvision_networks):
    networks = MobileNetV2Backbone(), ResNet50Backbone()
    (tmp_path / "text.pth").write_text("no weights")
    torch.save(torchvision_networks[1].state_dict(), tmp_path / "resnet.pth")
    for name, message in (
        ("absent.pth", "absent.pth do not exist"),
        ("text.pth", "text.pth cannot be read"),
        ("resnet.pth", "resnet.pth is not a checkpoint of this glance or focus network"),
    ):
        with pytest.raises(WeightsError, match=message) as caught:
            load_imagenet_weights(*networks, tmp_path / name, tmp_path)
        assert "\n" not in str(caught.value)


def test_an_unknown_glance_network_is_refused():
    with pytest.raises(ValueError, match="unknown glance network 'mbv3': choose from mbv2, res50"):
        build_glance_network("mbv3")
