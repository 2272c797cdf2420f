"""The two networks, what they keep for the backward pass, and where their ImageNet weights come from."""

import copy

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
from models.uni_adafocus import UniAdaFocus
from ops.inference import prepare_for_inference
from ops.losses import training_losses
from tests.shared import SMALL


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
    (tmp_path / "nothing.pth").write_bytes(b"\x80\x02.")  # a pickle of no value, which unpickling trips over
    torch.save({"state_dict": [1]}, tmp_path / "list.pth")
    torch.save({0: torch.zeros(1), "epoch": 3}, tmp_path / "numbers.pth")
    some = dict(list(torchvision_networks[0].state_dict().items())[:20])
    torch.save(some, tmp_path / "some.pth")
    for name, message in (
        ("absent.pth", "absent.pth do not exist"),
        ("text.pth", "text.pth cannot be read"),
        ("resnet.pth", "resnet.pth is not a checkpoint of this glance or focus network"),
        ("nothing.pth", "nothing.pth cannot be read"),
        ("list.pth", "list.pth hold no tensors by name"),
        ("numbers.pth", "numbers.pth hold no tensors by name"),
        ("some.pth", "some.pth are not all of torchvision's MobileNetV2"),
    ):
        with pytest.raises(WeightsError, match=message) as caught:
            load_imagenet_weights(*networks, tmp_path / name, tmp_path)
        assert "\n" not in str(caught.value)


def test_an_unknown_glance_network_is_refused():
    with pytest.raises(ValueError, match="unknown glance network 'mbv3': choose from mbv2, res50"):
        build_glance_network("mbv3")


def both_kinds(model: UniAdaFocus) -> tuple[UniAdaFocus, UniAdaFocus]:
    """The model in training mode, and a copy that computes its activations again."""
    again = copy.deepcopy(model.train())
    again.checkpoint_activations()
    return model, again


def training_steps(model: UniAdaFocus, steps: int = 2) -> tuple[dict[str, torch.Tensor], int]:
    """Losses, sums of the gradients, and buffers after some steps, and the bytes that a step keeps for its backward
    pass."""
    kept, results = {}, {}
    torch.manual_seed(1)
    frames = torch.randint(0, 256, (2, 6, 3, 64, 64), dtype=torch.uint8)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for step in range(steps):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            losses = training_losses(model(frames), torch.tensor([0, 1]), 0.1, 1.0)
        losses["loss"].backward()
        results |= {f"{name} {step}": value.detach() for name, value in losses.items()}
    results |= {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    return results | dict(model.named_buffers()), sum(kept.values())


@pytest.mark.parametrize("glance_arch", ["mbv2", "res50"])
def test_activations_computed_again_change_no_number(glance_arch, thin_networks):
    torch.manual_seed(0)
    usual, again = both_kinds(UniAdaFocus(4, **SMALL, glance_arch=glance_arch).double())
    (expected, _), (found, _) = training_steps(usual), training_steps(again)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)
    assert int(found["local_CNN.layer4.0.bn1.num_batches_tracked"]) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scope", ["backbones", "all"])
def test_activations_are_computed_again_in_the_same_precision(dtype, scope, thin_model):
    thin_model.train_in_half(dtype, scope)
    usual, again = both_kinds(thin_model)
    (expected, _), (found, _) = training_steps(usual, steps=1), training_steps(again, steps=1)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, equal_nan=True, msg=name)


def test_fewer_activations_are_kept(small_model):
    weights = sum(value.nbytes for value in small_model.parameters())
    (_, plenty), (_, few) = (training_steps(model, steps=1) for model in both_kinds(small_model))
    assert few - weights < 0.4 * (plenty - weights)


@torch.no_grad()
def test_evaluation_computes_nothing_again(thin_model, monkeypatch):
    frames = torch.randint(0, 256, (1, 6, 3, 64, 64), dtype=torch.uint8)
    expected = thin_model.eval()(frames).logits
    thin_model.checkpoint_activations()
    monkeypatch.delattr("models.backbones.checkpoint")
    assert torch.equal(thin_model(frames).logits, expected)
    torch.testing.assert_close(prepare_for_inference(thin_model)(frames).logits, expected, rtol=1e-4, atol=1e-4)
