"""Optimizer and learning rate."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.vla.training.schedule import SCHEDULERS, Schedule, build_optimizer

LONG = {"warmup_epochs": 0.25, "trainer": {"max_epochs": 5, "max_steps": -1}}


def made(kind: str, **values: Any) -> Schedule:
    return Schedule.from_config({**LONG, "scheduler": kind, **values}, steps_per_epoch=40)


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_values_at_the_start_after_the_warmup_and_at_the_end(kind: str) -> None:
    """w = 0.25 * 40 = 10 and T = 5 * 40 = 200."""
    schedule = made(kind)
    assert (schedule.warmup, schedule.total) == (10, 200)
    assert schedule.factor(0) == 0
    assert schedule.factor(5) == 0.5
    assert schedule.factor(10) == 1
    middle = {"constant": 1.0, "cosine": 0.5, "half-cosine": 0.01 + 0.99 / 2}[kind]
    assert schedule.factor(105) == pytest.approx(middle)
    end = {"constant": 1.0, "cosine": 0.0, "half-cosine": 0.01}[kind]
    assert schedule.factor(200) == pytest.approx(end, abs=1e-12)
    assert schedule.factor(300) == pytest.approx(end, abs=1e-12)


def test_half_cosine_is_the_originals_formula() -> None:
    schedule = made("half-cosine", warmup_epochs=0.3, warmup_steps=0.5, min_lr_scale=0.1)
    w, total, s = 12.5, 200, 0.1
    for step in range(201):
        wave = s + (1 - s) * 0.5 * (1 + math.cos(math.pi * (step - w) / (total - w)))
        assert schedule.factor(step) == pytest.approx(step / w if step < w else wave)


@pytest.mark.parametrize("kind", ["constant", "cosine"])
def test_the_others_are_those_of_transformers(kind: str) -> None:
    rates = []  # type: ignore[var-annotated]
    for ours in (True, False):
        model = nn.Linear(1, 1)
        optimizer = build_optimizer(model, {})
        if ours:
            scheduler = made(kind).attach(optimizer)
        elif kind == "constant":
            scheduler = get_constant_schedule_with_warmup(optimizer, 10)
        else:
            scheduler = get_cosine_schedule_with_warmup(optimizer, 10, 200)
        rates.append([])
        for _ in range(200):
            rates[-1].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    assert rates[0] == pytest.approx(rates[1], abs=1e-12)
    assert max(rates[0]) == 2e-5


def test_a_resumed_schedule_goes_on_where_it_was() -> None:
    def start() -> tuple[torch.optim.Optimizer, Any]:
        torch.manual_seed(0)
        optimizer = build_optimizer(nn.Linear(1, 1), {})
        return optimizer, made("cosine").attach(optimizer)

    def rates(optimizer: torch.optim.Optimizer, scheduler: Any, steps: int) -> list[float]:
        found = []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    through = rates(*start(), 60)
    optimizer, scheduler = start()
    assert rates(optimizer, scheduler, 25) == through[:25]
    state = optimizer.state_dict(), scheduler.state_dict()
    optimizer, scheduler = start()
    optimizer.load_state_dict(state[0])
    scheduler.load_state_dict(state[1])
    assert rates(optimizer, scheduler, 35) == through[25:]


def test_steps_end_a_wave_early_and_defaults() -> None:
    assert made("cosine", trainer={"max_epochs": 5, "max_steps": 70}).total == 70
    assert made("cosine", trainer={"max_epochs": -1, "max_steps": 700}).total == 700
    assert made("cosine", trainer={"max_epochs": 1, "max_steps": 700}).total == 40
    assert made("cosine", trainer={}).total == 200
    assert Schedule.from_config({}, 40) == Schedule("constant", 10, 200, 0.01)
    assert Schedule.from_config({"warmup_epochs": 0}, 40).factor(0) == 1
    assert made("constant", warmup_epochs=0, warmup_steps=4).factor(1) == 0.25


def test_the_optimizer_is_adamw_over_what_is_trained() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    optimizer = build_optimizer(model, {"optimizer": "adam"})
    assert type(optimizer) is torch.optim.AdamW
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (2e-5, 0)
    assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)
    assert [id(p) for p in group["params"]] == [id(p) for p in model[1].parameters()]
    other = build_optimizer(model, {"learning_rate": 1e-4, "weight_decay": 0.1}).param_groups[0]
    assert (other["lr"], other["weight_decay"]) == (1e-4, 0.1)


def test_what_cannot_be_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="half-cosine"):
        made("half_cosine")
    with pytest.raises(UnknownNameError, match="adamw"):
        build_optimizer(nn.Linear(1, 1), {"optimizer": "sgd"})
    with pytest.raises(UsageError, match="freezes every parameter"):
        build_optimizer(nn.Linear(1, 1).requires_grad_(False), {})
    with pytest.raises(UsageError, match="learning_rate: expected a number from 0 up"):
        build_optimizer(nn.Linear(1, 1), {"learning_rate": "2e-5"})
    with pytest.raises(UsageError, match="found 10 of 5"):
        made("cosine", trainer={"max_steps": 5})
