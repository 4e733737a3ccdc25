"""He's ResNets for CIFAR-10 (depth 6n + 2, shortcuts without weights), which neither torchvision nor timm has."""

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.stride, self.more = stride, width - inputs
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x):
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        # Option A: every other pixel, and zeros for the new channels, half of them in front.
        x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more // 2))
        return F.relu(h + x)


class ResNet(nn.Module):
    """Images to pooled features [n, 64]."""

    def __init__(self, depth):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        stage = lambda inputs, width, stride: nn.Sequential(
            *[Block(width if i else inputs, width, 1 if i else stride) for i in range((depth - 2) // 6)]
        )
        self.layer1, self.layer2, self.layer3 = stage(16, 16, 1), stage(16, 32, 2), stage(32, 64, 2)

    def forward_features(self, x):
        return self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))

    def forward(self, x):
        return self.forward_features(x).mean((2, 3))


def load(path, depth):
    """The network of a published file (in evaluation mode), and weight and bias of its linear layer, float64."""
    state = {name.removeprefix("module."): t for name, t in torch.load(path, map_location="cpu", weights_only=True)["state_dict"].items()}
    weight, bias = state.pop("linear.weight"), state.pop("linear.bias")
    model = ResNet(depth)
    model.load_state_dict(state)
    return model.eval(), weight.double().numpy(), bias.double().numpy()
