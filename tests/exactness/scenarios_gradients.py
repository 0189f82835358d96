"""Optimizers, accumulation, several optimizers, and where gradients are dropped."""

from __future__ import annotations

import torch
from torch import nn

from tests.exactness.scripts import Script, scenario
from tests.exactness.training import EPOCHS, learn, loss_of, network, shuffled


def plain(script: Script, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The loop of the README."""
    loader = shuffled()
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))


@scenario()
def sgd_momentum(script):
    model = network()
    plain(script, model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True))


@scenario(slow=True)
def adam(script):
    model = network()
    plain(script, model, torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True))


@scenario()
def adamw_fused(script):
    model = network()
    plain(script, model, torch.optim.AdamW(model.parameters(), lr=0.01, fused=True))


@scenario(slow=True)
def adamw_foreach(script):
    model = network()
    plain(script, model, torch.optim.AdamW(model.parameters(), lr=0.01, foreach=True))


@scenario()
def batch_norm(script):
    model = network(nn.BatchNorm1d(8))
    plain(script, model, torch.optim.AdamW(model.parameters(), lr=0.01))


@scenario(slow=True, waits=True)
def lbfgs(script):
    """An optimizer that calls the model itself, several times a step, and keeps lists of tensors.

    Its closure drops the gradients inside of the step, so what stands at a boundary may be pending, and saves wait.
    """
    model, loader = network(), shuffled()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3, history_size=3)
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = loss_of(model(x), y)
                loss.backward()
                return loss

            run.log(loss=optimizer.step(closure))


def accumulated(script: Script, *, carried: bool) -> None:
    """Three batches to a step; the odd ones at an epoch's end make a step of their own, or wait for the next epoch."""
    model, loader = network(), shuffled()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run = script.run({"model": model, "optimizer": optimizer})
    seen = run.values
    seen.setdefault("micro", 0)
    for _ in run.epochs(EPOCHS):
        for index, (x, y) in run.batches(loader, enumerate=True):
            loss = loss_of(model(x), y)
            (loss / 3).backward()
            run.log(loss=loss)
            seen["micro"] += 1
            if seen["micro"] % 3 == 0 if carried else ((index + 1) % 3 == 0 or index + 1 == len(loader)):
                optimizer.step()
                optimizer.zero_grad()


@scenario(waits=True)
def accumulation_flushed(script):
    accumulated(script, carried=False)


@scenario(waits=True)
def accumulation_carried(script):
    accumulated(script, carried=True)


def zeroed(script: Script, *, first: bool, to_none: bool) -> None:
    model, loader = network(), shuffled()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            if first:
                optimizer.zero_grad(set_to_none=to_none)
            loss = loss_of(model(x), y)
            loss.backward()
            optimizer.step()
            if not first:
                optimizer.zero_grad(set_to_none=to_none)
            run.log(loss=loss)


@scenario()
def zero_grad_at_the_start(script):
    zeroed(script, first=True, to_none=True)


@scenario(ways=("at",))
def zero_grad_at_the_start_keeping_tensors(script):
    """What stands at a boundary looks like pending gradients, so ordinary saves wait for long; they are exact."""
    zeroed(script, first=True, to_none=False)


@scenario(slow=True)
def zero_grad_at_the_end_keeping_tensors(script):
    zeroed(script, first=False, to_none=False)


def adversarial(script: Script, every: int) -> None:
    """A generator whose gradients accumulate over ``every`` steps of its discriminator."""
    loader = shuffled()
    generator, critic = network(), nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
    small = torch.optim.SGD(generator.parameters(), lr=0.05, momentum=0.9)
    other = torch.optim.AdamW(critic.parameters(), lr=0.01)
    run = script.run({"generator": generator, "critic": critic, "small": small, "other": other})
    for _ in run.epochs(EPOCHS):
        for index, (x, y) in run.batches(loader, enumerate=True):
            fake = generator(x + 0.1 * torch.randn_like(x))
            real = critic(torch.cat([x, y], 1))
            critical = nn.functional.softplus(-real).mean()
            critical = critical + nn.functional.softplus(critic(torch.cat([x, fake.detach()], 1))).mean()
            critical.backward()
            other.step()
            other.zero_grad()
            generating = nn.functional.softplus(-critic(torch.cat([x, fake], 1))).mean()
            generating.backward(inputs=list(generator.parameters()))
            if (index + 1) % every == 0:
                small.step()
                small.zero_grad()
            run.log(critical=critical, generating=generating)


@scenario(slow=True)
def gan_one_to_one(script):
    adversarial(script, every=1)


@scenario(waits=True)
def gan_one_to_three(script):
    adversarial(script, every=3)


@scenario(waits=True)
def two_optimizers_over_the_same_gradients(script):
    """One of them steps and does not clear; the other clears at the next start: what looks left over is pending."""
    model, loader = network(), shuffled()
    body = torch.optim.SGD(model[0].parameters(), lr=0.05)
    head = torch.optim.SGD(model[3].parameters(), lr=0.05)
    run = script.run({"model": model, "body": body, "head": head})
    for _ in run.epochs(EPOCHS):
        for index, (x, y) in run.batches(loader, enumerate=True):
            loss = loss_of(model(x), y)
            loss.backward()
            body.step()
            body.zero_grad()
            if index % 2 == 0:
                head.step()
                head.zero_grad()
            run.log(loss=loss)


@scenario(waits=True)
def gradients_that_survive_their_step(script):
    """The optimizer steps twice over a decayed gradient: it is not zeroed but scaled, from step to step."""
    model, loader = network(), shuffled()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            loss = loss_of(model(x), y)
            loss.backward()
            optimizer.step()
            for parameter in model.parameters():
                parameter.grad = parameter.grad * 0.5
            run.log(loss=loss)


@scenario()
def grad_scaler_with_an_infinite_step(script):
    model, loader = network(), shuffled()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6, growth_interval=4)
    run = script.run({"model": model, "optimizer": optimizer, "scaler": scaler})
    for _ in run.epochs(EPOCHS):
        for index, (x, y) in run.batches(loader, enumerate=True):
            loss = loss_of(model(x), y)
            scaler.scale(loss * (float("inf") if index == 2 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            run.log(loss=loss, scale=scaler.get_scale())
