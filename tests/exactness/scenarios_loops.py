"""How people write their loops: validation, several loops, `break`, limits, steps, loops by hand."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch.utils.data import DataLoader

from tests.exactness.scripts import scenario
from tests.exactness.training import BATCH, EPOCHS, POINTS, evaluate, learn, loss_of, network, points, shuffled


def made() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = network(torch.nn.BatchNorm1d(8))
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def held_out() -> DataLoader[Any]:
    return DataLoader(points(10), BATCH)


@torch.no_grad()
def validate(model: torch.nn.Module, batches: Any) -> float:
    """Mean loss over validation batches; dropout is on, so it draws."""
    return float(sum(loss_of(model(x), y) for x, y in batches))


@scenario(slow=True)
def validation_unwrapped(script):
    (model, optimizer), loader, validation = made(), shuffled(), held_out()
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))
        run.log(validation=validate(model, validation))


@scenario(slow=True)
def validation_marked(script):
    (model, optimizer), loader, validation = made(), shuffled(), held_out()
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))
        run.log(validation=validate(model, run.batches(validation, train=False)))


@scenario()
def validation_wrapped_like_training(script):
    """Nobody said that it is validation: it is the second loop of the epoch, and its batches count."""
    (model, optimizer), loader, validation = made(), shuffled(), held_out()
    run = script.run({"model": model, "optimizer": optimizer})
    run.values.setdefault("total", 0.0)
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))
        for x, y in run.batches(validation):
            with torch.no_grad():
                run.values["total"] += float(loss_of(model(x), y))
        run.log(validation=run.values["total"])


@scenario()
def validation_nested_in_the_body(script):
    (model, optimizer), loader, validation = made(), shuffled(), held_out()
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for index, (x, y) in run.batches(loader, enumerate=True):
            run.log(loss=learn(model, optimizer, x, y))
            if index == 2:
                run.log(validation=validate(model, run.batches(validation)))


@scenario()
def evaluation_before_and_after_the_inner_loop(script):
    """What runs before the loop runs again after a restart, on restored weights, and leaves no trace."""
    (model, optimizer), loader = made(), shuffled()
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        run.log(before=evaluate(model))
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))
        run.log(after=evaluate(model))


@scenario()
def scheduler_before_the_inner_loop(script):
    (model, optimizer), loader = made(), shuffled()
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
    run = script.run({"model": model, "optimizer": optimizer, "scheduler": scheduler})
    for _ in run.epochs(EPOCHS):
        scheduler.step()
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y), lr=scheduler.get_last_lr()[0])


@scenario()
def two_loops_in_an_epoch(script):
    """A pass of one kind, then one of another, with draws between them."""
    (model, optimizer), one, other = made(), shuffled(), shuffled(generator=torch.Generator().manual_seed(2))
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(one):
            run.log(first=learn(model, optimizer, x, y))
        scale = torch.rand(())
        for x, y in run.batches(other):
            run.log(second=learn(model, optimizer, x, y * scale))


@scenario(slow=True)
def two_loops_over_one_loader_with_workers(script):
    (model, optimizer) = made()
    loader = shuffled(num_workers=2, persistent_workers=True, generator=torch.Generator().manual_seed(2))
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            run.log(first=learn(model, optimizer, x, y))
        for x, y in run.batches(loader, limit=2):
            run.log(second=learn(model, optimizer, x, y))


@scenario()
def two_loops_that_share_a_generator(script):
    (model, optimizer), shared = made(), torch.Generator().manual_seed(2)
    one, other = shuffled(generator=shared), shuffled(generator=shared)
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(one):
            run.log(first=learn(model, optimizer, x, y))
        for x, y in run.batches(other):
            run.log(second=learn(model, optimizer, x, y))
    return {"generator": shared}


def in_step(script: Any, one: Any, other: Any) -> None:
    model, optimizer = made()
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for (x, y), (u, _) in run.batches(one, other):
            run.log(loss=learn(model, optimizer, x[: len(u)] + 0.1 * u[: len(x)], y[: len(u)]))


@scenario(slow=True)
def two_loaders_in_step(script):
    in_step(script, shuffled(drop_last=True), shuffled(generator=torch.Generator().manual_seed(9), drop_last=True))


@scenario()
def two_loaders_in_step_that_shuffle_alike(script):
    """Both draw from the global generator: first both seeds, then both orders."""
    in_step(script, shuffled(drop_last=True), shuffled(drop_last=True))


@scenario(slow=True)
def two_persistent_pools_in_step(script):
    options = {"num_workers": 1, "persistent_workers": True, "drop_last": True}
    in_step(script, shuffled(**options), shuffled(**options))


@scenario()
def left_by_break_with_enumerate(script):
    (model, optimizer), loader = made(), shuffled()
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for index, (x, y) in run.batches(loader, enumerate=True):
            run.log(loss=learn(model, optimizer, x, y))
            if index == 2:
                break
        run.log(after=evaluate(model))


@scenario(slow=True)
def left_by_break_with_progress(script):
    (model, optimizer), loader = made(), shuffled()
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            if run.progress.batch == 2:
                break
            run.log(loss=learn(model, optimizer, x, y))


@scenario()
def limited(script):
    (model, optimizer), loader = made(), shuffled()
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader, limit=3):
            run.log(loss=learn(model, optimizer, x, y))


@scenario()
def steps(script):
    (model, optimizer), loader = made(), shuffled()
    run = script.run({"model": model, "optimizer": optimizer})
    for x, y in run.steps(loader, 11):
        run.log(loss=learn(model, optimizer, x, y))


@scenario(slow=True)
def steps_with_evaluation(script):
    (model, optimizer), loader = made(), shuffled(generator=torch.Generator().manual_seed(4))
    run = script.run({"model": model, "optimizer": optimizer})
    for x, y in run.steps(loader, 11):
        run.log(loss=learn(model, optimizer, x, y))
        if run.progress.batches % 4 == 3:
            run.log(evaluated=evaluate(model))


@scenario()
def by_hand_seeding_each_epoch(script):
    """A loop that knows where it is, without generators: minimind's shape."""
    model, optimizer = made()
    xs, ys = points().tensors
    run = script.run({"model": model, "optimizer": optimizer})
    start = run.resume()
    for epoch in range(start.epoch if start else 0, EPOCHS):
        torch.manual_seed(42 + epoch)
        order = torch.randperm(POINTS).split(BATCH)
        first = start.batch if start and start.epoch == epoch else 0
        for index in range(first, len(order)):
            run.batch_start(epoch=epoch)
            run.log(loss=learn(model, optimizer, xs[order[index]], ys[order[index]]))
            run.batch_end(epoch=epoch, batch=index + 1)
    run.close()


@scenario()
def by_hand_with_the_next_batch_fetched_early(script):
    """The shape of nanoGPT: the next batch is drawn before the backward pass of this one, and kept in the state."""
    model, optimizer = made()
    xs, ys = points().tensors
    kept: dict[str, Any] = {"next": torch.zeros(BATCH, dtype=torch.int64)}
    run = script.run({"model": model, "optimizer": optimizer, "kept": kept})
    start = run.resume()
    if start is None:
        kept["next"] = torch.randint(POINTS, (BATCH,))
    for index in range(start.batch if start else 0, 10):
        chosen = kept["next"]
        loss = loss_of(model(xs[chosen]), ys[chosen])
        kept["next"] = torch.randint(POINTS, (BATCH,))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        run.log(loss=loss)
        run.batch_end(epoch=1, batch=index + 1)
    run.close()


@scenario(waits=True)
def by_hand_with_accumulation(script):
    """The gradients of half a step are restored also where the loop is the script's own."""
    model, optimizer = made()
    xs, ys = points().tensors
    run = script.run({"model": model, "optimizer": optimizer})
    start = run.resume()
    for index in range(start.batch if start else 0, 10):
        chosen = torch.randint(POINTS, (BATCH,))
        loss = loss_of(model(xs[chosen]), ys[chosen])
        loss.backward()
        if index % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
        run.log(loss=loss)
        run.batch_end(epoch=1, batch=index + 1)
    run.close()


@scenario(slow=True)
def endless_steps_counted_by_hand(script):
    """Batches from a plain cycle outside of holdfast's sight, counted and skipped by the script."""
    model, optimizer = made()
    batches = list(DataLoader(points(), BATCH))
    run = script.run({"model": model, "optimizer": optimizer})
    start = run.resume()
    first = start.batch if start else 0
    for index, (x, y) in itertools.islice(enumerate(itertools.cycle(batches)), first, 10):
        run.log(loss=learn(model, optimizer, x, y))
        run.batch_end(epoch=1, batch=index + 1)
    run.close()


@scenario()
def validation_before_the_epochs(script):
    """The score of the untrained model, with dropout on: what it draws comes before the random state is restored."""
    model, loader = network(), shuffled()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run = script.run({"model": model, "optimizer": optimizer})
    run.log(val=sum(loss_of(model(x), y) for x, y in run.batches(shuffled(), train=False)))
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y), seen=x.sum())


@scenario()
def validation_with_a_generator_of_its_own(script):
    """Behind the training loop and in front of it, shuffled by generators that live on from epoch to epoch."""
    model, loader = network(), shuffled()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    before, behind = (shuffled(generator=torch.Generator().manual_seed(seed)) for seed in (5, 6))
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, _ in run.batches(before, train=False, limit=1):
            optimizer.param_groups[0]["lr"] = 0.05 + 0.01 * float(x.mean())
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y), seen=x.sum())
        for x, _ in run.batches(behind, train=False, limit=1):
            run.log(val=model(x).sum(), of=x.sum())
    return {"before": before.generator, "behind": behind.generator}
