import itertools
import math
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch

from lab.experiments import synthetic_masks, synthetic_nets, synthetic_picture


@pytest.fixture
def parts():
    return synthetic_nets, synthetic_masks, synthetic_picture


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["standard", "convolutional"])
def test_the_constructed_network_says_every_label_when_unlit_blocks_are_silent(parts, kind):
    nets = parts[0]
    problem = nets.Problem(nets.Design(kind, "constructed", seed=1, leak=0.0))
    for task in range(len(problem.design.tasks)):
        x, y = problem.draw(task, 500, seeded(task))
        with torch.no_grad():
            said = problem.net(x).argmax(1)
        assert float((said == y).float().mean()) > 0.995


def test_the_initial_network_knows_nothing(parts):
    nets = parts[0]
    problem = nets.Problem(nets.Design("standard", "initial", seed=1))
    x, y = problem.draw(0, 2000, seeded(0))
    with torch.no_grad():
        assert float((problem.net(x).argmax(1) == y).float().mean()) < 0.5


def test_copies_of_a_node_differ_by_a_factor_alone(parts):
    nets = parts[0]
    problem = nets.Problem(nets.Design("standard", "initial", seed=2))
    x, _ = problem.draw(0, 200, seeded(0))
    with torch.no_grad():
        active = problem.net[:2](x)
    for node in range(problem.design.blocks * problem.design.nodes):
        copies = active[:, problem.owner[0] == node]
        assert copies.shape[1] == problem.design.copies
        assert int(torch.linalg.matrix_rank(copies)) == 1
        assert float(copies.std(0).max() / copies.std(0).min()) > 1.01


def test_a_known_mask_covers_its_task_and_a_swapped_one_nothing_of_it(parts):
    nets = parts[0]
    problem = nets.Problem(nets.Design("standard", "constructed", seed=0))
    for task in range(len(problem.design.tasks)):
        known = problem.one_of_each(task)
        assert [len(kept) for kept in known] == [problem.design.needed] * 2
        assert problem.coverage(task, known) == 1
        assert problem.coverage(task, problem.one_of_each(task, swapped=True)) == 0


def test_a_copy_twice_covers_no_more_than_once(parts):
    nets = parts[0]
    problem = nets.Problem(nets.Design("standard", "constructed", seed=0))
    same = [torch.nonzero(owner == 0).flatten().tolist() for owner in problem.owner]
    assert problem.coverage(0, same) == 1 / problem.design.needed


def trials(n_tasks: int, n_repetitions: int) -> tuple[np.ndarray, np.ndarray]:
    task = np.repeat(np.arange(n_tasks), n_repetitions)
    return task, np.tile(np.arange(n_repetitions), n_tasks)


def test_masks_that_name_the_task_tell_all_of_it(parts):
    task, repetition = trials(6, 6)
    codes = np.random.default_rng(0).random((6, 40)) < 0.3
    found = parts[1].nats_about_task(codes[task], task, repetition)
    assert math.log(6) - 0.1 < found <= math.log(6)


def test_masks_that_do_not_look_tell_nothing(parts):
    task, repetition = trials(6, 6)
    masks = np.random.default_rng(0).random((36, 40)) < 0.3
    assert parts[1].nats_about_task(masks, task, repetition) < 0.1
    assert parts[1].nats_about_task(masks[:1].repeat(36, 0), task, repetition) == 0


def test_masks_that_name_half_of_it_tell_half_of_it(parts):
    task, repetition = trials(4, 10)
    masks = np.stack([task < 2, task >= 2, repetition % 2 == 0], 1)
    found = parts[1].nats_about_task(masks, task, repetition)
    assert found == pytest.approx(math.log(2), abs=0.1)


def test_masks_that_name_the_sample_alone_tell_nothing_of_the_task(parts):
    task, repetition = trials(4, 6)
    masks = repetition[:, None] == np.arange(6)
    assert parts[1].nats_about_task(masks, task, repetition) < 0.05


def test_noisy_masks_tell_no_more_than_there_is(parts):
    # one bit a task, seen right three times in four: log 2 less the entropy of the noise
    task, repetition = trials(2, 200)
    wrong = np.random.default_rng(1).random(400) < 0.25
    masks = ((task == 1) ^ wrong)[:, None]
    truth = math.log(2) + 0.25 * math.log(0.25) + 0.75 * math.log(0.75)
    found = parts[1].nats_about_task(masks, task, repetition % 5)
    assert truth - 0.06 < found < truth + 0.06


def test_correlations_are_pearsons_and_spearmans(parts):
    pearson, spearman = parts[1].correlation([1, 2, 3, 4], [1, 2, 3, 40])
    assert spearman == pytest.approx(1)
    assert 0.5 < pearson < 0.9
    assert all(math.isnan(value) for value in parts[1].correlation([1, 1, 1], [1, 2, 3]))


def test_names_in_the_picture_keep_their_distance(parts):
    placed = parts[2].spaced([50, 51, 52, 10, 98, 99], gap=10, low=0, high=100)
    ordered = sorted(placed)
    assert all(b - a >= 10 - 1e-9 for a, b in itertools.pairwise(ordered))
    assert ordered[0] >= 0
    assert ordered[-1] <= 100
    assert placed[3] == 10


def test_the_picture_is_sound_and_has_every_point(parts):
    picture = parts[2]
    points = [picture.Point(f"<{n}>", "mipp", [0.1 * n, 0.2], [0.5, 0.6]) for n in range(7)]
    text = picture.draw([picture.Panel("a & b", "at once", points)] * 3, math.log(6))
    root = ET.fromstring(text)
    circles = root.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 21
    assert "prefers-color-scheme: dark" in text
