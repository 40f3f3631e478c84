"""Makes unet.npz: CARE's U-Net (depth 2, 3 features) in plain PyTorch, its output, and three steps of Adam.

python make_unet.py
"""

import pathlib

import numpy as np
import torch
import torch.nn.functional as F

torch.manual_seed(0)
DEPTH, FEATURES = 2, 3

weights, channels = {}, 1


def add(name, outputs, kernel=3, extra=0):
    global channels
    weights[name + ".weight"] = torch.randn(outputs, channels + extra, kernel, kernel) * 0.2
    weights[name + ".bias"] = torch.randn(outputs) * 0.1
    channels = outputs


for level in range(DEPTH):
    for number in range(2):
        add(f"down_level_{level}_no_{number}", FEATURES * 2**level)
add("middle_0", FEATURES * 2**DEPTH)
add("middle_1", FEATURES * 2 ** (DEPTH - 1))
for level in reversed(range(DEPTH)):
    add(f"up_level_{level}_no_0", FEATURES * 2**level, extra=FEATURES * 2**level)
    add(f"up_level_{level}_no_1", FEATURES * 2 ** max(0, level - 1))
add("last", 1, kernel=1)


def conv(x, name):
    weight = weights[name + ".weight"]
    return F.conv2d(x, weight, weights[name + ".bias"], padding=weight.shape[-1] // 2)


def unet(x):
    h, skipped = x, []
    for level in range(DEPTH):
        for number in range(2):
            h = F.relu(conv(h, f"down_level_{level}_no_{number}"))
        skipped.append(h)
        h = F.max_pool2d(h, 2)
    h = F.relu(conv(F.relu(conv(h, "middle_0")), "middle_1"))
    for level in reversed(range(DEPTH)):
        h = torch.cat([F.interpolate(h, scale_factor=2, mode="nearest"), skipped.pop()], 1)
        for number in range(2):
            h = F.relu(conv(h, f"up_level_{level}_no_{number}"))
    return x + conv(h, "last")


batch = {
    "input": torch.rand(2, 1, 12, 20),
    "target": torch.rand(2, 1, 12, 20),
    "weight": torch.tensor([1.0, 0.5]).reshape(2, 1, 1, 1),
}
stored = {name: value.clone() for name, value in {**weights, **batch}.items()}
stored["output"] = unet(batch["input"])
for value in weights.values():
    value.requires_grad_()
adam = torch.optim.Adam(weights.values(), lr=1e-2)
losses = []
for _ in range(3):
    adam.zero_grad()
    loss = ((unet(batch["input"]) - batch["target"]).abs() * batch["weight"]).mean()
    loss.backward()
    adam.step()
    losses.append(loss.item())
stored["losses"] = torch.tensor(losses, dtype=torch.float64)
stored["output_after_three_steps"] = unet(batch["input"])
path = pathlib.Path(__file__).with_name("unet.npz")
np.savez(path, **{name: value.detach().numpy() for name, value in stored.items()})
