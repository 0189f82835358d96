"""What may be in the state: schedulers, averages, wrapped modules, nested values, values of the loop."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.exactness.scripts import scenario
from tests.exactness.training import EPOCHS, evaluate, learn, loss_of, network, shuffled


@scenario()
def scheduler_per_batch(script):
    model, loader = network(), shuffled()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, epochs=EPOCHS, steps_per_epoch=len(loader))
    run = script.run({"model": model, "optimizer": optimizer, "scheduler": scheduler})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y), lr=scheduler.get_last_lr()[0])
            scheduler.step()


@scenario()
def scheduler_per_epoch(script):
    """The tail of an epoch runs exactly once, also when the run is killed right before it."""
    model, loader = network(), shuffled()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    run = script.run({"model": model, "optimizer": optimizer, "scheduler": scheduler})
    for epoch in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))
        scheduler.step()
        run.log(tail=epoch, lr=scheduler.get_last_lr()[0])


@scenario(slow=True)
def scheduler_on_a_plateau(script):
    model, loader = network(), shuffled()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    run = script.run({"model": model, "optimizer": optimizer, "scheduler": scheduler})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))
        scheduler.step(evaluate(model))


@scenario()
def moving_average(script):
    model, loader = network(nn.BatchNorm1d(8)), shuffled()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run = script.run({"model": model, "ema": average, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))
            average.update_parameters(model)


@scenario(slow=True)
def compiled(script):
    model, loader = network(), shuffled()
    model = torch.compile(model, backend="eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))


@scenario(slow=True)
def data_parallel(script):
    """Both wrappers' prefixes are gone from the names, which other tests look at; here it is the same run."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    model, loader = nn.parallel.DistributedDataParallel(network(nn.BatchNorm1d(8))), shuffled()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))


@scenario()
def nested(script):
    """Modules and optimizers inside dicts and lists, beside plain values and a tensor without a module."""
    loader, first, second = shuffled(), network(), network()
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.05, momentum=0.9) for one in (first, second)]
    counters = {"seen": 0, "by_epoch": {}, "history": [], "running": torch.zeros(2)}
    nets = {"pair": {"first": first, "second": second}, "optimizers": optimizers}
    run = script.run({"nets": nets, "counters": counters})
    for epoch in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            losses = [learn(one, mine, x, y) for one, mine in zip((first, second), optimizers, strict=True)]
            counters["seen"] += len(x)
            counters["by_epoch"][epoch] = counters["by_epoch"].get(epoch, 0) + 1
            counters["history"].append((epoch, float(losses[0])))
            counters["running"] += torch.stack(losses).detach()
            run.log(first=losses[0], second=losses[1], running=counters["running"][0])


@scenario(slow=True)
def private_generator(script):
    """Noise from a generator that the script holds and puts into its state."""
    model, loader, noise = network(), shuffled(), torch.Generator().manual_seed(11)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run = script.run({"model": model, "optimizer": optimizer, "noise": noise})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x + 0.1 * torch.randn(x.shape, generator=noise), y))


@scenario()
def best_metric_in_values(script):
    """A running mean over the epoch and the best of all epochs, in `run.values`; training stops when patience ends."""
    model, loader = network(), shuffled()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run = script.run({"model": model, "optimizer": optimizer})
    run.values.setdefault("best", float("inf"))
    for _ in run.epochs(EPOCHS):
        if run.progress.batch == 0:
            run.values["sum"] = 0.0
        for x, y in run.batches(loader):
            loss = learn(model, optimizer, x, y)
            run.values["sum"] += loss.item()
            run.log(loss=loss)
        run.values["best"] = min(run.values["best"], run.values["sum"] / len(loader))
        run.log(best=run.values["best"])


@scenario()
def early_stopping(script):
    """Left by `break` out of the epochs, on what `run.values` remembers."""
    model, loader = network(), shuffled()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run = script.run({"model": model, "optimizer": optimizer})
    run.values.setdefault("epochs", 0)
    for _ in run.epochs(50):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))
        run.values["epochs"] += 1
        if run.values["epochs"] == EPOCHS:
            break


@scenario(slow=True)
def frozen_layer_with_tied_weights(script):
    body = nn.Linear(4, 4)
    model = nn.Sequential(body, nn.Tanh(), nn.Dropout(0.2), body, nn.Linear(4, 1))
    model[4].weight.requires_grad_(False)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.01)
    loader = shuffled()
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))


@scenario(ways=("asked",))
def save_asked_for_in_the_body(script):
    model, loader = network(), shuffled()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for index, (x, y) in run.batches(loader, enumerate=True):
            if index % 2:
                run.save()
            run.log(loss=learn(model, optimizer, x, y))


@scenario(ways=("asked",))
def save_asked_for_in_the_tail(script):
    model, loader = network(), shuffled()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run = script.run({"model": model, "optimizer": optimizer})
    for epoch in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))
        run.log(before=torch.rand(()))
        run.save()
        run.log(tail=epoch, drawn=torch.rand(()))


@scenario(ways=("finish",), first={"epochs": 2})
def finished_and_raised(script):
    """Two epochs to the end, then four with the same script: as if there had been four from the beginning."""
    model, loader = network(), shuffled()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(script.options.get("epochs", 4)):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))


def failing(script, run, model, optimizer, loader):
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            loss = loss_of(model(x), y)
            script.fail_here()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            run.log(loss=loss)


@scenario(ways=("raise",))
def exception_inside_with(script):
    """The failing batch has moved BatchNorm's statistics and the random numbers; the boundary before is saved."""
    model, loader = network(nn.BatchNorm1d(8)), shuffled()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with script.run({"model": model, "optimizer": optimizer}) as run:
        failing(script, run, model, optimizer, loader)


@scenario(ways=("raise",))
def exception_in_the_bare_loop(script):
    model, loader = network(nn.BatchNorm1d(8)), shuffled(num_workers=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run = script.run({"model": model, "optimizer": optimizer})
    failing(script, run, model, optimizer, loader)
