"""What networks share that take labels: int64 (B,) in [0, n_classes), or float (B, n_classes), weights of sum 1.

With weights an image lies between classes: every linear map of a one-hot label is applied to the weights in its place.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, normalize
from torch.nn.utils.parametrizations import spectral_norm

from .blocks import Output, UnsupportedError

GeneratorCondition = Literal["concat", "batch_norm"]
DiscriminatorCondition = Literal["concat", "projection", "classifier", "embedding"]


def one_hot(labels: Tensor, n_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return labels as weights (B, n_classes); weights are only converted. Does not synchronise with the device."""
    if labels.is_floating_point():
        return labels.to(dtype)
    # Not `arange`, whose device an exported program would keep wherever it is moved.
    classes = torch.ones_like(labels)[:, None].expand(-1, n_classes).cumsum(1) - 1
    return (labels[:, None] == classes).to(dtype)


def with_labels(x: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Join one-hot labels to vectors (B, D), or to images (B, C, H, W) as constant maps: D or C grows by n_classes."""
    weights = one_hot(labels, n_classes, x.dtype)
    if x.ndim == 4:
        weights = weights[..., None, None].expand(-1, -1, *x.shape[2:])
    return torch.cat([x, weights], 1)


class ClassEmbedding(nn.Embedding):
    """A vector for each class: labels to (B, embedding_dim); of weights, the mixture of the classes' vectors."""

    def forward(self, labels: Tensor) -> Tensor:
        """(B,) int64 or (B, n_classes) float to (B, embedding_dim)."""
        weight = self.weight  # read once: under spectral normalisation each reading is a power iteration
        if labels.is_floating_point():
            return linear(labels.to(weight.dtype), weight.T)
        return embedding(labels, weight)


class ConditionalBatchNorm(nn.Module):
    """BatchNorm whose gain and bias depend on the class (Dumoulin et al. 2017, A Learned Representation, equation 5).

    Gains begin at 1 and biases at 0, as those of the official code of Miyato and Koyama 2018.

    Args:
        channels: of the activations.
        n_classes: number of classes.
        dense: the activations are (B, channels), else (B, channels, H, W).
    """

    def __init__(self, channels: int, n_classes: int, dense: bool = False) -> None:
        super().__init__()
        kind = nn.BatchNorm1d if dense else nn.BatchNorm2d
        self.norm = kind(channels, affine=False)
        self.gain, self.bias = ClassEmbedding(n_classes, channels), ClassEmbedding(n_classes, channels)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, C, H, W) or dense (B, C), and labels, to the shape and the precision of x."""
        shape = (-1, x.shape[1], *[1] * (x.ndim - 2))
        return (self.norm(x) * self.gain(labels).view(shape) + self.bias(labels).view(shape)).to(x.dtype)


def joined(condition: str, n_classes: int) -> int:
    """Return by how many entries or channels one-hot labels widen the input of a network."""
    return n_classes if condition == "concat" else 0


def condition_on_labels(layers: nn.Module, condition: GeneratorCondition, n_classes: int) -> None:
    """Put a class-conditional BatchNorm in the place of each BatchNorm of a generator's layers for "batch_norm".

    Raises:
        UnsupportedError: the layers have no BatchNorm, or the condition is neither concat nor batch_norm.
    """
    if condition not in get_args(GeneratorCondition):
        raise UnsupportedError(f"condition: {condition!r} is not one of {', '.join(get_args(GeneratorCondition))}")
    if condition == "concat":
        return
    found = [
        (parent, name, layer)
        for parent in layers.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    if not found:
        raise UnsupportedError("condition: batch_norm needs norm: batch; with other norms choose condition: concat")
    for parent, name, layer in found:
        dense = isinstance(layer, nn.BatchNorm1d)
        setattr(parent, name, ConditionalBatchNorm(layer.num_features, n_classes, dense))


def through(layers: nn.Sequential, x: Tensor, labels: Tensor) -> Tensor:
    """Apply layers in turn, class-conditional BatchNorms with the labels."""
    for layer in layers:
        x = layer(x, labels) if isinstance(layer, ConditionalBatchNorm) else layer(x)
    return x


def unit(vectors: Tensor) -> Tensor:
    """Scale vectors (B, E) to unit length, in float32 or what is more precise."""
    return normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)))


class LabelHead(nn.Module):
    """What a discriminator concludes from its features (B, F), its unconditional logits and the labels.

    - "projection": to the logit is added the inner product of the features and an embedding of the label
      (Miyato and Koyama 2018, cGANs with Projection Discriminator, equation 6).
    - "classifier": the head "class" (B, n_classes), a linear map of the features without bias: logits of the classes
      (Odena et al. 2017, Conditional Image Synthesis with Auxiliary Classifier GANs).
    - "embedding": the heads "embedding", a linear map of the features, and "proxy", an embedding of the label, both
      (B, embedding_dim) and scaled to unit length (Kang et al. 2021, Rebooting ACGAN, section 3).
    - "concat": nothing; the labels were joined to the images.

    Args:
        features: F.
        n_classes: number of classes.
        condition: one of the above.
        embedding_dim: of "embedding" (the official code: 512).
        spectral: put spectral normalisation on the weights, of embeddings too, as the official code of the papers does.
        draw: initialises a weight (outputs, F) or (n_classes, F) in place.

    Raises:
        UnsupportedError: the condition is none of these.
    """

    def __init__(
        self,
        features: int,
        n_classes: int,
        condition: DiscriminatorCondition,
        embedding_dim: int,
        spectral: bool,
        draw: Callable[[Tensor], object],
    ) -> None:
        super().__init__()
        if condition not in get_args(DiscriminatorCondition):
            choices = ", ".join(get_args(DiscriminatorCondition))
            raise UnsupportedError(f"condition: {condition!r} is not one of {choices}")
        self.condition = condition
        match condition:
            case "projection":
                self.embedding = ClassEmbedding(n_classes, features)
            case "classifier":
                self.classifier = nn.Linear(features, n_classes, bias=False)
            case "embedding":
                self.dense = nn.Linear(features, embedding_dim)
                self.proxy = ClassEmbedding(n_classes, embedding_dim)
                nn.init.zeros_(self.dense.bias)
        for layer in self.children():
            draw(layer.weight)  # type: ignore[arg-type]
            if spectral:
                spectral_norm(layer)

    def forward(self, logits: Tensor, features: Tensor, labels: Tensor) -> Output:
        """(B,), (B, F) and labels to an Output with these features."""
        match self.condition:
            case "projection":
                return Output(logits + (self.embedding(labels) * features).sum(1), features)
            case "classifier":
                return Output(logits, features, {"class": self.classifier(features)})
            case "embedding":
                heads = {"embedding": unit(self.dense(features)), "proxy": unit(self.proxy(labels))}
                return Output(logits, features, heads)
        return Output(logits, features)


def judge(layers: nn.Sequential, head: LabelHead, images: Tensor, labels: Tensor) -> Output:
    """Apply a discriminator's layers, of which the last two make features logits (B,), and its head."""
    *hidden, last, flatten = layers
    for layer in hidden:
        images = layer(images)
    return head(flatten(last(images)), images.flatten(1), labels)
