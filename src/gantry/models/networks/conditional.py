"""What networks share that take labels: int64 (B,) in [0, n_classes), or float (B, n_classes), whose sums are 1.

With weights an image lies between classes: every linear map of a one-hot label is applied to the weights in its place.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear


def one_hot(labels: Tensor, n_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return labels as weights (B, n_classes); weights are only converted. Does not synchronise with the device."""
    if labels.is_floating_point():
        return labels.to(dtype)
    return (labels[:, None] == torch.arange(n_classes, device=labels.device)).to(dtype)


class ClassEmbedding(nn.Embedding):
    """A vector for each class: labels to (B, embedding_dim); of weights, the mixture of the classes' vectors."""

    def forward(self, labels: Tensor) -> Tensor:
        """(B,) int64 or (B, n_classes) float to (B, embedding_dim)."""
        if labels.is_floating_point():
            return linear(labels.to(self.weight.dtype), self.weight.T)
        return embedding(labels, self.weight)


class ConditionalBatchNorm(nn.Module):
    """BatchNorm whose gain and bias depend on the class (Dumoulin et al. 2017, A Learned Representation, equation 5).

    Gains begin at 1 and biases at 0, as those of the official code of Miyato and Koyama 2018.

    Args:
        channels: of the activations.
        n_classes: number of classes.
    """

    def __init__(self, channels: int, n_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain, self.bias = ClassEmbedding(n_classes, channels), ClassEmbedding(n_classes, channels)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, C, H, W) and labels to (B, C, H, W)."""
        return self.norm(x) * self.gain(labels)[..., None, None] + self.bias(labels)[..., None, None]
