"""Makes gan.npz and vgg16.safetensors: PatchGAN, ResNet generator, VGG16 and GAN losses in PyTorch, on made weights.

python make_gan.py
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

HERE = pathlib.Path(__file__).parent
torch.manual_seed(0)
stored: dict[str, torch.Tensor] = {}


def keep(prefix: str, net: nn.Module) -> None:
    """Stores made weights, larger than the initial ones of the papers, so that every layer counts."""
    for name, weight in net.state_dict().items():
        weight.copy_(torch.randn_like(weight) * 0.2)
        stored[f"{prefix}.{name}"] = weight.clone()


class Wrapped(nn.Module):
    """Gives the variables of a sequence the prefix `model`."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


# --- PatchGAN: 2 input channels, 2 layers of stride 2, 3 features ---
critic = Wrapped(
    nn.Conv2d(2, 3, 4, stride=2, padding=1),
    nn.LeakyReLU(0.2),
    nn.Conv2d(3, 6, 4, stride=2, padding=1),
    nn.InstanceNorm2d(6),
    nn.LeakyReLU(0.2),
    nn.Conv2d(6, 12, 4, padding=1),
    nn.InstanceNorm2d(12),
    nn.LeakyReLU(0.2),
    nn.Conv2d(12, 1, 4, padding=1),
)
keep("critic", critic)
real, fake = torch.randn(2, 2, 20, 24), torch.randn(2, 2, 20, 24)
mix = torch.rand(2, 1, 1, 1)
stored |= {"real": real, "fake": fake, "mix": mix}


def layers(image: torch.Tensor) -> list[torch.Tensor]:
    """What follows each LeakyReLU, then the scores."""
    results = []
    for layer in critic.model:
        image = layer(image)
        if isinstance(layer, nn.LeakyReLU):
            results.append(image)
    return [*results, image]


*real_features, d_real = layers(real)
*fake_features, d_fake = layers(fake)
stored |= {"d_real": d_real, "d_fake": d_fake, "feature_2": real_features[2]}
stored["feature_matching"] = sum(F.l1_loss(f, r) for f, r in zip(fake_features, real_features, strict=True))

# --- GAN losses: on real, on fake, of the generator ---
ones, zeros = torch.ones_like(d_real), torch.zeros_like(d_real)
losses = {
    "lsgan": (F.mse_loss(d_real, ones), F.mse_loss(d_fake, zeros), F.mse_loss(d_fake, ones)),
    "wgan-gp": (-d_real.mean(), d_fake.mean(), -d_fake.mean()),
}
stored |= {name: torch.stack(values) for name, values in losses.items()}

# --- Gradient penalty, and its gradient by a weight: the derivative of a derivative ---
between = (mix * real + (1 - mix) * fake).requires_grad_()
score = critic(between).mean((1, 2, 3)).sum()
(gradient,) = torch.autograd.grad(score, between, create_graph=True)
penalty = ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
stored["penalty"] = penalty
(stored["penalty_by_weight"],) = torch.autograd.grad(penalty, critic.model[2].weight)


# --- ResNet generator: 1 channel, 2 features, 2 blocks ---
class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        conv = [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)]
        again = [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)]
        self.conv_block = nn.Sequential(*conv, nn.ReLU(), *again)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv_block(x)


def up(inputs: int, outputs: int) -> list[nn.Module]:
    conv = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
    return [conv, nn.InstanceNorm2d(outputs), nn.ReLU()]


def down(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.InstanceNorm2d(outputs), nn.ReLU()]


generator = Wrapped(
    *[nn.ReflectionPad2d(3), nn.Conv2d(1, 2, 7), nn.InstanceNorm2d(2), nn.ReLU()],
    *down(2, 4),
    *down(4, 8),
    *[Block(8), Block(8)],
    *up(8, 4),
    *up(4, 2),
    *[nn.ReflectionPad2d(3), nn.Conv2d(2, 1, 7), nn.Tanh()],
)
keep("generator", generator)
image = torch.randn(2, 1, 16, 24)
stored |= {"image": image, "generated": image + generator(image)}


# --- VGG16 with torchvision's names but few features, on a grey image ---
class Vgg16(nn.Module):
    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        features: list[nn.Module] = []
        channels = 3
        for width, count in zip(widths, [2, 2, 3, 3, 3], strict=True):
            for _ in range(count):
                features += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            features.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*features)


vgg = Vgg16([4, 4, 5, 5, 6])
with torch.no_grad():
    for weight in vgg.state_dict().values():
        weight.copy_(torch.randn_like(weight) * (0.25 if weight.dim() == 4 else 0.1))
grey = torch.rand(2, 1, 36, 40)
mean, deviation = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
x = (grey.expand(2, 3, 36, 40) - mean) / deviation
stored["grey"] = grey
# torchvision's numbers of the ReLU called 1_2, 3_3 and 5_3.
names = {3: "relu1_2", 15: "relu3_3", 29: "relu5_3"}
for index, layer in enumerate(vgg.features):
    x = layer(x)
    if index in names:
        stored[names[index]] = x

np.savez(HERE / "gan.npz", **{name: value.detach().numpy() for name, value in stored.items()})

# The format of .safetensors: length of the header, the header, the values.
header, data = {}, b""
for name, value in vgg.state_dict().items():
    raw = value.numpy().astype("<f4").tobytes()
    header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)]}
    data += raw
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
(HERE / "vgg16.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
