"""Images per second of `mdr-train` beside the same network in PyTorch, in turn.

    python training_speed.py DATA --mdr-train target/release/mdr-train [--threads 1] [--rounds 3] [--steps 120]

DATA holds bench10. mdr-train trains CARE's U-Net (`care-denoise.toml`: depth 2, 32 features, batches of 16 patches of
64 pixels) with reading, augmentation, averaged weights and log. PyTorch trains the same network, with the same loss and
Adam, on one batch that lies in memory: as it is usually written (float32), and with channels last and bfloat16 by
autocast, which is what mdr-train does where the processor multiplies bfloat16 in hardware. Prints the median images per
second of each, and how many times as many mdr-train has, least and most of the rounds. Needs torch.
"""

import argparse
import csv
import pathlib
import statistics
import subprocess
import tempfile
import time

import torch
import torch.nn.functional as F
from torch import nn

CONFIG = pathlib.Path(__file__).resolve().parents[1] / "configs" / "care-denoise.toml"
DEPTH, FEATURES, BATCH, SIDE = 2, 32, 16, 64


class UNet(nn.Module):
    """As `src/nets/unet.rs`."""

    def __init__(self):
        super().__init__()
        channels = 1
        self.down, self.up = nn.ModuleList(), nn.ModuleList()

        def pair(first, second, extra=0):
            nonlocal channels
            layers = [nn.Conv2d(channels + extra, first, 3, padding=1), nn.ReLU()]
            layers += [nn.Conv2d(first, second, 3, padding=1), nn.ReLU()]
            channels = second
            return nn.Sequential(*layers)

        for level in range(DEPTH):
            self.down.append(pair(FEATURES << level, FEATURES << level))
        self.middle = pair(FEATURES << DEPTH, FEATURES << (DEPTH - 1))
        for level in reversed(range(DEPTH)):
            self.up.append(pair(FEATURES << level, FEATURES << max(0, level - 1), extra=FEATURES << level))
        self.last = nn.Conv2d(channels, 1, 1)

    def forward(self, x):
        h, skipped = x, []
        for layers in self.down:
            h = layers(h)
            skipped.append(h)
            h = F.max_pool2d(h, 2)
        h = self.middle(h)
        for layers in self.up:
            h = layers(torch.cat([F.interpolate(h, scale_factor=2, mode="nearest"), skipped.pop()], 1))
        return x + self.last(h)


def by_torch(steps, tuned):
    torch.manual_seed(1)
    layout = torch.channels_last if tuned else torch.contiguous_format
    net = UNet().to(memory_format=layout)
    given = torch.rand(BATCH, 1, SIDE, SIDE).to(memory_format=layout)
    target = torch.rand(BATCH, 1, SIDE, SIDE).to(memory_format=layout)
    adam = torch.optim.Adam(net.parameters(), lr=4e-4)
    warm = steps // 4
    for step in range(steps):
        if step == warm:
            start = time.perf_counter()
        adam.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=tuned):
            output = net(given)
        (output.float() - target).abs().mean().backward()
        adam.step()
    return (steps - warm) * BATCH / (time.perf_counter() - start)


def by_mdr_train(program, data, steps, threads):
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder) / "run"
        command = [program, "train", "--config", CONFIG, "--data", data / "bench10", "--out", run, "--device", "cpu"]
        changes = [f"train.steps={steps}", f"train.validate_every={steps}", f"train.log_every={steps // 4}"]
        changes = [word for change in changes for word in ("--set", change)]
        subprocess.run(
            [*command, "--threads", str(threads), *changes],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        rows = list(csv.DictReader((run / "log.csv").open()))
    # The first quarter is for the caches, as it is for PyTorch.
    return statistics.mean(float(row["images_per_s"]) for row in rows[1:] if row["images_per_s"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--mdr-train", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = {"mdr-train": [], "PyTorch, float32": [], "PyTorch, channels last, bfloat16": []}
    for _ in range(arguments.rounds):
        ours = by_mdr_train(arguments.mdr_train, arguments.data, arguments.steps, arguments.threads)
        theirs = [by_torch(arguments.steps, tuned) for tuned in (False, True)]
        for name, speed in zip(found, [ours, *theirs], strict=True):
            found[name].append(speed)
    print(f"CARE's U-Net, {BATCH} patches of {SIDE}² pixels, {arguments.threads} threads, {arguments.rounds} rounds")
    for name, speeds in found.items():
        ratios = sorted(a / b for a, b in zip(found["mdr-train"], speeds, strict=True))
        text = "" if name == "mdr-train" else f"   mdr-train {ratios[0]:.2f} to {ratios[-1]:.2f} times as many"
        print(f"{name:34} {statistics.median(speeds):6.1f} images/s{text}")


if __name__ == "__main__":
    main()
