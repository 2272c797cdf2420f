"""Bookkeeping of an epoch; whole epochs are tested through main.py."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from models.uni_adafocus import TrainingOutput, UniAdaFocus
from ops.engine import (
    Step,
    TrainingState,
    accumulate_gradients,
    collect,
    evaluate,
    logits_by_head,
    seed_step,
    train_steps,
)
from ops.loss_history import NAMES, LossHistory
from ops.losses import LOSS_NAMES, training_losses
from ops.metrics import training_accuracy
from ops.setup import wrap
from ops.utils import distributed
from ops.utils.errors import UserError
from tests.shared import SMALL, call_together, random_output, reference_weights


@pytest.fixture
def small_model(thin_model) -> UniAdaFocus:
    """The network is not the point here."""
    return thin_model


def _step(value: float, *videos: int) -> Step:
    return Step({name: torch.tensor(value + number) for number, name in enumerate(NAMES)}, torch.tensor(videos), 0.5)


def test_means_are_over_the_line_and_over_the_epoch():
    history = LossHistory(0, str)
    history.append(_step(1.0, 0))
    history.append(_step(3.0, 1))
    assert history.flush().figures["loss"] == pytest.approx(2.0)
    history.append(_step(8.0, 2))
    assert history.flush().figures["cat"] == pytest.approx(9.0)
    assert history.means()["loss"] == pytest.approx(4.0)


def test_a_run_that_was_interrupted_before_accuracies_were_kept_goes_on():
    history = LossHistory(0, str, before=([6.0] * len(LOSS_NAMES), 2))
    history.append(_step(3.0, 0))
    assert history.totals()[1] == 3
    assert history.means()["loss"] == pytest.approx(3.0)


def test_the_first_step_that_is_not_finite_is_named_with_its_videos():
    history = LossHistory(4, lambda index: f"video{index}")
    history.append(_step(1.0, 0, 1))
    history.flush()
    history.append(_step(1.0, 2, 3))
    history.append(_step(float("nan"), 5, 6))
    history.append(_step(float("inf"), 7, 8))
    with pytest.raises(UserError, match=r"epoch 4, step 2: loss nan, .*videos of the batch: video5, video6\."):
        history.flush()


def test_a_step_draws_the_same_again_and_other_steps_draw_others():
    def draw(*where):
        seed_step(*where)
        return float(torch.rand(()))

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({draw(1, 2, 3), draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4)}) == 4


@torch.no_grad()
def test_a_process_without_videos_collects_nothing_of_the_right_shape(small_model):
    rows, indices = collect(small_model.eval(), [], lambda output: {"all": output.step_logits, "last": output.logits})
    assert rows["all"].shape == (0, 5, 4) and rows["last"].shape == (0, 4) and len(indices) == 0


def step(model, frames, pieces: int) -> tuple[dict, list[torch.Tensor]]:
    """The loss terms and the gradients of a batch worked through in so many pieces."""
    for parameter in model.parameters():
        parameter.grad = None
    torch.manual_seed(0)
    losses = accumulate_gradients(
        model, frames, torch.arange(len(frames)) % 4, torch.amp.GradScaler("cpu", enabled=False),
        kl_ratio=1.0, norm_ratio=1.0, pieces=pieces,
    )  # fmt: skip
    return losses, [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def freeze_batch_norms(model) -> None:
    """Train with the statistics that are there: otherwise they are those of a piece."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()


def test_pieces_of_a_batch_give_the_losses_and_gradients_of_the_whole(thin_networks):
    torch.manual_seed(0)
    # Every frame is glanced at and looked at as a whole, so that nothing is drawn.
    model = UniAdaFocus(4, 3, 3, 3, patch_size=64, input_size=64, dropout=0.0, fc_dropout=0.0).double()
    freeze_batch_norms(model)
    frames = torch.randint(0, 256, (4, 3, 3, 64, 64), dtype=torch.uint8)
    whole_losses, whole = step(model, frames, pieces=1)
    losses, gradients = step(model, frames, pieces=4)
    for name, value in whole_losses.items():
        torch.testing.assert_close(losses[name], value, msg=name)
    for ours, expected in zip(gradients, whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-12)


def test_no_piece_draws_what_another_drew(small_model):
    freeze_batch_norms(small_model)
    video = torch.randint(0, 256, (1, 6, 3, 64, 64), dtype=torch.uint8)
    drawn = []
    small_model.register_forward_hook(lambda module, inputs, out: drawn.append(out.random.focus_logits.detach()))
    step(small_model, video.expand(4, -1, -1, -1, -1), pieces=4)
    assert len(drawn) == 4 and len({float(logits.sum()) for logits in drawn}) == 4


def test_processes_exchange_the_gradients_of_all_pieces_once(small_model):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        network = DistributedDataParallel(small_model, gradient_as_bucket_view=True)
        exchanged = []

        def exchange(state, bucket):
            exchanged.append(bucket.buffer().numel())
            future = torch.futures.Future()
            future.set_result(2 * bucket.buffer())
            return future

        network.register_comm_hook(None, exchange)
        freeze_batch_norms(small_model)
        frames = torch.randint(0, 256, (4, 6, 3, 64, 64), dtype=torch.uint8)
        _, alone = step(small_model, frames, pieces=2)
        _, together = step(network, frames, pieces=2)
        assert sum(exchanged) == sum(p.numel() for p in small_model.parameters() if p.requires_grad)
        for ours, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(ours, 2 * expected)  # the sum over all pieces went through the exchange
    finally:
        dist.destroy_process_group()


def split(videos: int) -> tuple[list, torch.Tensor]:
    """Batches of a split, and its labels."""
    frames = torch.randint(0, 256, (videos, 6, 3, 64, 64), dtype=torch.uint8)
    labels = torch.full((videos, 3), -1)
    labels[:, 0] = torch.arange(videos) % 4
    return [(frames[rows], labels[rows], rows) for rows in torch.arange(videos).split(2)], labels


def evaluated(model, batches, labels):
    return evaluate(model, batches, labels, "accuracy", video_names=str)


def test_an_evaluation_gives_what_the_network_gives_and_sees_its_latest_weights(small_model):
    small_model.load_state_dict(reference_weights(small_model))
    batches, labels = split(5)
    answers = []
    for _ in range(2):
        metrics, found = evaluated(small_model, batches, labels)
        with torch.no_grad():
            steps = torch.cat([small_model.eval()(frames).step_logits for frames, _, _ in batches])
            expected = steps[:, -1]
        torch.testing.assert_close(found.logits.softmax(1), expected.softmax(1), rtol=0, atol=1e-4)
        loss = torch.nn.functional.cross_entropy(steps.flatten(0, 1), labels[:, 0].repeat_interleave(steps.shape[1]))
        assert metrics["loss"] == pytest.approx(float(loss), abs=1e-3)
        with torch.no_grad():
            small_model.local_CNN.conv1.weight.mul_(1.5)
            small_model.global_CNN.features[0][1].running_mean.add_(0.5)
        answers.append(found.logits)
    assert not torch.allclose(*answers, atol=1e-2)


def test_training_goes_on_after_an_evaluation(small_model):
    batches, labels = split(4)
    evaluated(small_model, batches, labels)
    small_model.train()(batches[0][0]).policy.logits.sum().backward()
    assert small_model.local_CNN.conv1.weight.grad is not None


def test_processes_draw_differently_in_the_same_step(monkeypatch):
    drawn = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        seed_step(1, 2, 3)
        drawn.append(float(torch.rand(())))
    assert drawn[0] != drawn[1]


def test_every_head_is_heard_under_its_own_name():
    output = random_output(0)
    heads = logits_by_head(output)
    assert torch.equal(heads["pred"], output.step_logits[:, -1])
    assert torch.equal(heads["temporal"], output.temporal_logits)
    assert torch.equal(heads["spatial"], output.spatial_logits)
    for name, steps in (("cat", output.step_logits), ("global", output.glance_logits), ("local", output.focus_logits)):
        torch.testing.assert_close(heads[name], steps.softmax(dim=2).mean(dim=1))


class Told(torch.nn.Module):
    """A network of one weight, 1, which gives the outputs that it was told with their step logits times the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.policy, self.random, self.weight = random_output(0), random_output(1), torch.nn.Parameter(torch.ones(()))

    def forward(self, frames: torch.Tensor) -> TrainingOutput:
        branches = (self.policy, self.random)
        return TrainingOutput(*(replace(each, step_logits=self.weight * each.step_logits) for each in branches))


TARGET = torch.tensor([1, 4])


def told_step(network: Told, scale: float = 1.0) -> dict[str, torch.Tensor]:
    network.weight.grad = None
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return accumulate_gradients(network, torch.zeros(2, 1), TARGET, scaler, kl_ratio=0.3, norm_ratio=0.7)


def test_a_step_weighs_the_losses_as_asked_and_counts_what_the_policys_patches_get_right():
    network = Told()
    figures = told_step(network)
    for name, value in training_losses(network(None), TARGET, kl_ratio=0.3, norm_ratio=0.7).items():
        torch.testing.assert_close(figures[name], value.detach(), msg=name)
    right, other = (training_accuracy(logits_by_head(each), TARGET) for each in (network.policy, network.random))
    assert right != other and {name: figures[name] for name in right} == right


def test_gradients_are_of_the_scaled_loss():
    network = Told()
    told_step(network)
    expected = 8 * network.weight.grad
    told_step(network, scale=8.0)
    torch.testing.assert_close(network.weight.grad, expected)


def test_each_step_has_only_gradients_of_its_own():
    network = Told()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    state = TrainingState(network, network, optimizer, torch.amp.GradScaler("cpu", enabled=False))
    batch = torch.zeros(2, 1), TARGET[:, None], torch.arange(2)
    steps = train_steps(state, [batch, batch], seed=0, kl_ratio=0.0, norm_ratio=0.0)
    first, second = [float(network.weight.grad) for _ in steps]
    assert first == second != 0


def train_and_evaluate(arguments) -> None:
    """One of two processes: a step with a video of its own, then its share of an evaluation."""
    with distributed.process_group() as device:
        rank = distributed.rank()
        torch.manual_seed(0)
        model = UniAdaFocus(4, **SMALL)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        state = TrainingState(model, wrap(model, device), optimizer, torch.amp.GradScaler("cpu", enabled=False))
        batches, labels = split(4)
        videos = slice(2 * rank, 2 * rank + 2)
        own = batches[rank][0], labels[videos], torch.arange(4)[videos]
        history = LossHistory(0, str)
        for each in train_steps(state, [own], seed=0, kl_ratio=0.0, norm_ratio=1.0):
            losses = distributed.gather_objects(float(each.figures["loss"]))
            history.append(each)
        assert losses[0] != losses[1] and history.flush().figures["loss"] == pytest.approx(sum(losses) / 2)
        sums = distributed.gather_objects([float(weight.detach().double().sum()) for weight in model.parameters()])
        assert sums[0] == sums[1]  # both have learned from all videos

        model.global_CNN.features[0][1].running_mean.add_(rank)  # each has seen other videos
        _, found = evaluated(model, batches[rank::2], labels)
        if rank == 0:
            with torch.no_grad():
                expected = torch.cat([model.eval()(frames).logits for frames, _, _ in batches])
            torch.testing.assert_close(found.logits.softmax(1), expected.softmax(1), rtol=0, atol=1e-4)
        print("done", flush=True)


def test_two_processes_learn_from_all_videos_and_evaluate_the_same_network(thin_networks):
    assert call_together(train_and_evaluate).stdout == "done\ndone\n"
