"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381) without its classifier.

Modules and their names are torchvision's, so that its weights fit. Importing torchvision takes more than a second, most
of it for a compiler, and whoever captions one picture needs neither.
"""

from torch import nn

FEATURE_DIM = 1280
STAGES = (  # table 2: expansion t, channels c, repeats n, stride s of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def convolution(inputs, outputs, kernel_size, stride=1, groups=1):
    """Return convolution, BatchNorm and ReLU6; maps keep their size but for the stride."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """A block that widens its maps, filters each for itself, and narrows them; a shortcut where the shapes allow it."""

    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([convolution(inputs, hidden, 1)] if expansion > 1 else []),
            convolution(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, maps):
        return maps + self.conv(maps) if self.shortcut else self.conv(maps)


def mobilenet_v2():
    """Return the 19 blocks, (B, 3, S, S) images -> (B, 1280, S/32, S/32) maps, with random weights (He et al. 2015)."""
    blocks, inputs = [convolution(3, 32, 3, stride=2)], 32
    for expansion, outputs, repeats, stride in STAGES:
        for number in range(repeats):
            blocks.append(InvertedResidual(inputs, outputs, 1 if number else stride, expansion))
            inputs = outputs
    features = nn.Sequential(*blocks, convolution(inputs, FEATURE_DIM, 1))
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return features
