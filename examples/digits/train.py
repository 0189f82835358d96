"""Train a small convolutional network on scikit-learn's handwritten digits.

    python examples/digits/train.py --out plain.pt
    python examples/digits/train.py --out held.pt --holdfast runs/digits

The first line trains as always. The second can be killed at any instant and started again: it continues where it was,
and ends with the same weights, bit for bit. What that takes is the difference between `train` and `train_held`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

TRAINING_IMAGES = 1437  # of 1797; the rest is held out


class Digits(Dataset[tuple[Tensor, Tensor]]):
    """8 x 8 grey images, each shifted by up to a pixel and made noisy anew whenever it is drawn."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = nn.functional.pad(images, (1, 1, 1, 1))
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        top, left = torch.randint(3, (2,)).tolist()
        image = self.images[index, :, top : top + 8, left : left + 8]
        return image + 0.1 * torch.randn(image.shape), self.labels[index]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(1024, 64),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(64, 10),
    )


class Job:
    """Everything that is trained, and what it is trained on."""

    def __init__(self, epochs: int) -> None:
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        labels = torch.tensor(digits.target)
        self.loader = DataLoader(
            Digits(images[:TRAINING_IMAGES], labels[:TRAINING_IMAGES]), batch_size=32, shuffle=True
        )
        self.held_out = images[TRAINING_IMAGES:], labels[TRAINING_IMAGES:]
        self.model = network()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=2e-3)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=epochs)
        self.losses: list[float] = []

    def learn(self, images: Tensor, labels: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(self.model(images), labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses.append(loss.item())
        return loss

    @torch.no_grad()
    def accuracy(self) -> float:
        images, labels = self.held_out
        return (self.model.eval()(images).argmax(1) == labels).float().mean().item()

    def save(self, path: Path) -> None:
        weights, optimizer = self.model.state_dict(), self.optimizer.state_dict()
        torch.save({"model": weights, "optimizer": optimizer, "losses": self.losses}, path)


def train(job: Job, epochs: int, show: Bar) -> None:
    for _ in range(epochs):
        for images, labels in job.loader:
            job.learn(images, labels)
            show.step(job)
        job.scheduler.step()


def train_held(job: Job, epochs: int, show: Bar, folder: str) -> None:
    import holdfast

    run = holdfast.Run(
        folder,
        state={"model": job.model, "optimizer": job.optimizer, "scheduler": job.scheduler, "losses": job.losses},
        save=holdfast.Every(steps=20) | holdfast.AtEnd(),
        keep=holdfast.KeepLast(3),
    )
    for _ in run.epochs(epochs):
        for images, labels in run.batches(job.loader):
            loss = job.learn(images, labels)
            run.log(loss=loss)
            show.step(job)
        job.scheduler.step()


class Bar:
    """A progress bar that begins wherever the job does."""

    def __init__(self, job: Job, epochs: int) -> None:
        columns = BarColumn(None), MofNCompleteColumn(), TextColumn("steps, loss {task.fields[loss]:.4f}")
        self.bar = Progress(TextColumn("{task.description}"), *columns, TimeRemainingColumn())
        self.task = self.bar.add_task("training", total=epochs * len(job.loader), loss=float("nan"))

    def step(self, job: Job) -> None:
        self.bar.update(self.task, completed=len(job.losses), loss=job.losses[-1])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small network on scikit-learn's handwritten digits.")
    parser.add_argument("--out", type=Path, required=True, help="file for the final weights, optimizer and losses")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--holdfast", metavar="FOLDER", help="keep checkpoints there, and resume from them")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.manual_seed(0)
    job = Job(args.epochs)
    show = Bar(job, args.epochs)
    with show.bar:
        if args.holdfast:
            train_held(job, args.epochs, show, args.holdfast)
        else:
            train(job, args.epochs, show)
    job.save(args.out)
    print(f"{len(job.losses)} steps, {job.accuracy():.1%} of the held-out digits are right")


if __name__ == "__main__":
    main()
