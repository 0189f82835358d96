"""What a reader of the documents has already: a model, what trains it, and its data."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))
optimizer = torch.optim.AdamW(model.parameters())
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
loss_fn = nn.CrossEntropyLoss()
dataset = TensorDataset(torch.randn(24, 4), torch.randint(2, (24,)))
loader = DataLoader(dataset, batch_size=4, shuffle=True)
