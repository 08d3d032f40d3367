"""The networks of Karras et al. 2020, Analyzing and Improving the Image Quality of StyleGAN, and StyleGAN2-ADA.

The defaults are the configuration `cifar` of the official code of Karras et al. 2020, Training Generative Adversarial
Networks with Limited Data: 19,947,539 weights in the generator and 20,720,641 in the discriminator; with ten classes
20,215,315 and 23,089,664. The generator adds up images of all sizes; the discriminator has no shortcuts ("orig").
The official code computes maps of 8 pixels and more in float16 and clamps them to +-256; here `trainer.precision`
decides, and nothing is clamped.
"""

import math
from collections.abc import Mapping as Named

import torch
from torch import Tensor, nn

from .blocks import Shape, UnsupportedError, start_of
from .conditional import one_hot
from .equalised import EqualisedConv2d, EqualisedLinear, activated, normalised, with_deviation
from .modulated import StyledConv2d, ToImage
from .priors import standard_normal
from .resample import Upsample

CAPACITY = 32768  # channels of a map are at most this divided by its longer side
RATE = 0.01  # of the mapping's layers, times the learning rate of the others
DECAY = 0.995  # of the average of w, a batch
LABEL_LAYERS = 8  # of the mapping of a discriminator's labels, which the official configuration leaves at the default
GROUP = 32  # images of which a standard deviation is computed


def channels_at(width: int, side: int) -> int:
    """Return the channels of maps with a longer side of `side` pixels: `width`, or fewer in large maps."""
    return max(1, min(width, CAPACITY // side))


class Mapping(nn.Sequential):
    """Dense layers of a hundredth of the learning rate, each `activated`: (B, before) to (B, w_dim).

    Args:
        before: length of its input.
        w_dim: length of its output and of what lies between.
        layers: number of layers.
    """

    def __init__(self, before: int, w_dim: int, layers: int) -> None:
        super().__init__(*[EqualisedLinear(w_dim if index else before, w_dim, RATE) for index in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, before) to (B, w_dim)."""
        for layer in self:
            x = activated(layer(x))
        return x


class LabelEmbedding(EqualisedLinear):
    """A vector for each class, divided by the root of its mean square: labels (`one_hot`) to (B, features)."""

    def forward(self, labels: Tensor) -> Tensor:
        """(B,) int64 or (B, n_classes) float to (B, features)."""
        return normalised(super().forward(one_hot(labels, self.in_features, self.weight.dtype)))


class Synthesis(nn.Module):
    """Images from w: a learned constant, two styled convolutions at each size, and at each a summand of the image.

    Args:
        image_shape, w_dim, width, noise: see `Generator`.
    """

    def __init__(self, image_shape: Shape, w_dim: int, width: int, noise: bool) -> None:
        super().__init__()
        start, count = start_of(image_shape)
        channels = channels_at(width, max(start))
        self.constant = nn.Parameter(torch.empty(channels, *start))
        nn.init.normal_(self.constant)
        self.convolutions, self.to_image = nn.ModuleList(), nn.ModuleList()
        self.sizes: list[tuple[int, int]] = []  # of the convolutions' outputs
        for done in range(count + 1):
            size = (start[0] << done, start[1] << done)
            before, channels = channels, channels_at(width, max(size))
            if done:
                self.convolutions.append(StyledConv2d(before, channels, w_dim, size, up=True, noise=noise))
            self.convolutions.append(StyledConv2d(channels, channels, w_dim, size, noise=noise))
            self.to_image.append(ToImage(channels, image_shape[0], w_dim))
            self.sizes += [size] * (2 if done else 1)
        self.upsample = Upsample()
        self.layers = len(self.convolutions) + 1  # that take a w of their own

    def forward(self, styles: list[Tensor], noise: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W).

        Args:
            styles: w (B, w_dim) for each of the `layers`; a size's summand of the image takes that of the next layer.
            noise: normal values (B, pixels of all the convolutions' outputs); None: the constant maps.
        """
        parts: list[Tensor] | list[None] = [None] * len(self.sizes)
        if noise is not None:
            pixels = noise.split([height * width for height, width in self.sizes], 1)
            parts = [part.unflatten(1, (1, *size)) for part, size in zip(pixels, self.sizes, strict=True)]
        x = self.constant.expand(styles[0].shape[0], -1, -1, -1)
        x = self.convolutions[0](x, styles[0], parts[0])
        image = self.to_image[0](x, styles[1])
        for block, to_image in enumerate(self.to_image[1:]):
            for layer in (2 * block + 1, 2 * block + 2):
                x = self.convolutions[layer](x, styles[layer], parts[layer])
            image = self.upsample(image) + to_image(x, styles[2 * block + 3])
        return image


class Styled(nn.Module):
    """What both generators are: a mapping of z to w, the average of w, and a `Synthesis`.

    Args:
        z_dim, image_shape, w_dim, width, layers, mixing, noise: see `Generator`.
        embedding: length of what is put behind z.

    Attributes:
        draws: by purpose, how many uniform numbers an image of training needs.
        w_average: moving average of w (w_dim,) over the batches of training; ranks average it like BatchNorm's mean.
    """

    w_average: Tensor

    def __init__(
        self,
        z_dim: int,
        image_shape: Shape,
        w_dim: int,
        width: int,
        layers: int,
        mixing: float,
        noise: bool,
        embedding: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= mixing <= 1:
            raise UnsupportedError(f"mixing: a probability from 0 to 1, not {mixing}")
        self.mapping = Mapping(z_dim + embedding, w_dim, layers)
        self.synthesis = Synthesis(image_shape, w_dim, width, noise)
        self.mixing = mixing
        self.draws: dict[str, int] = {}
        if noise:
            self.draws["noise"] = sum(high * wide for high, wide in self.synthesis.sizes)
        if mixing:
            self.draws["mixing"] = 2 + z_dim
        self.register_buffer("w_average", torch.zeros(w_dim))

    def images(self, z: Tensor, classes: Tensor | None, draws: Named[str, Tensor] | None, psi: float) -> Tensor:
        """Images (B, C, H, W) of latents (B, z_dim) and embeddings of classes (B, embedding)."""
        w = self._mapped(z, classes)
        if self.training:
            with torch.no_grad():
                self.w_average.lerp_(w.mean(0).to(self.w_average.dtype), 1 - DECAY)
        styles = [w] * self.synthesis.layers
        if self.mixing and draws is not None:
            styles = self._mixed(w, classes, draws["mixing"])
        if psi != 1:
            styles = [torch.lerp(self.w_average.to(w.dtype), style, psi) for style in styles]
        noise = None if draws is None or "noise" not in self.draws else standard_normal(draws["noise"]).to(w.dtype)
        return self.synthesis(styles, noise)

    def _mapped(self, z: Tensor, classes: Tensor | None) -> Tensor:
        return self.mapping(normalised(z) if classes is None else torch.cat([normalised(z), classes], 1))

    def _mixed(self, w: Tensor, classes: Tensor | None, uniform: Tensor) -> list[Tensor]:
        """Return w for each layer: from a cutoff on that of a second z (Karras et al. 2019, StyleGAN, section 3.1)."""
        layers = self.synthesis.layers
        other = self._mapped(standard_normal(uniform[:, 2:]).to(w.dtype), classes)
        coin, place = uniform[:, :1], uniform[:, 1:2]
        # Not `where` with a number, which torch copies from the host: a CUDA graph cannot capture that.
        cutoff = torch.where(coin < self.mixing, 1 + (place * (layers - 1)).floor(), torch.full_like(place, layers))
        return [torch.where(cutoff > layer, w, other) for layer in range(layers)]


class Generator(Styled):
    """A mapping network and a synthesis network.

    In training it takes two kinds of `draws`, uniform numbers in [0, 1): "noise" (B, pixels of all the convolutions'
    outputs), the noise maps; and, where `mixing` is above 0, "mixing" (B, 2 + z_dim): whether styles are mixed, from
    which layer on, and a second z. Each image's own numbers decide (StyleGAN, section 3.1), so that any number of
    ranks mixes the same styles; the official code decides once for a device's share of a batch. Without draws there is
    no mixing, and the noise is constant, so that an image depends on z alone; the official code draws fresh noise where
    it computes FID.

    Args:
        z_dim: length of the latent vector (the paper: 512).
        image_shape: (C, H, W) of the images to make, see `doublings` for the sides.
        w_dim: length of w.
        width: channels of the maps, of those above 64 pixels at most 32768 divided by the side.
        layers: of the mapping network.
        mixing: probability that an image of training mixes styles.
        noise: whether there are noise maps.
    """

    def __init__(
        self,
        z_dim: int,
        image_shape: Shape,
        w_dim: int = 512,
        width: int = 512,
        layers: int = 2,
        mixing: float = 0.0,
        noise: bool = True,
    ) -> None:
        super().__init__(z_dim, image_shape, w_dim, width, layers, mixing, noise)

    def forward(self, z: Tensor, draws: Named[str, Tensor] | None = None, *, psi: float = 1.0) -> Tensor:
        """Images (B, C, H, W), about in [-1, 1], from latents (B, z_dim); the last layer is linear.

        Args:
            draws: see the class; None in evaluation.
            psi: truncation in W, the share of w against its average (StyleGAN, section 3.2). Gantry truncates z.
        """
        return self.images(z, None, draws, psi)


class ConditionalGenerator(Styled):
    """A `Generator` whose mapping network takes an embedding of the class behind z.

    Args:
        z_dim, image_shape, w_dim, width, layers, mixing, noise: see `Generator`.
        n_classes: number of classes.
    """

    def __init__(
        self,
        z_dim: int,
        image_shape: Shape,
        n_classes: int,
        w_dim: int = 512,
        width: int = 512,
        layers: int = 2,
        mixing: float = 0.0,
        noise: bool = True,
    ) -> None:
        super().__init__(z_dim, image_shape, w_dim, width, layers, mixing, noise, embedding=w_dim)
        self.embedding = LabelEmbedding(n_classes, w_dim)

    def forward(
        self, z: Tensor, labels: Tensor, draws: Named[str, Tensor] | None = None, *, psi: float = 1.0
    ) -> Tensor:
        """Images (B, C, H, W) from latents (B, z_dim) and labels (`one_hot`); see `Generator` for the others."""
        return self.images(z, self.embedding(labels), draws, psi)


class Trunk(nn.Module):
    """Two convolutions at each size, of which the second halves it, and dense layers of the smallest maps.

    Args:
        image_shape, width: see `Discriminator`.
        features: outputs; None: as many as the smallest maps have channels.
    """

    def __init__(self, image_shape: Shape, width: int, features: int | None = None) -> None:
        super().__init__()
        start, count = start_of(image_shape)
        channels = channels_at(width, max(image_shape[1:]))
        layers = [EqualisedConv2d(image_shape[0], channels, 1)]
        for left in reversed(range(count)):
            before, channels = channels, channels_at(width, max(start) << left)
            layers += [EqualisedConv2d(before, before, 3), EqualisedConv2d(before, channels, 3, down=True)]
        self.layers = nn.Sequential(*layers)
        self.last = EqualisedConv2d(channels + 1, channels, 3)
        self.dense = EqualisedLinear(channels * start[0] * start[1], channels)
        self.features = channels if features is None else features
        self.out = EqualisedLinear(channels, self.features)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, features)."""
        # Every n-th image of a device's share of the batch, as in the official code, whose two devices have 32 each.
        x = self.last(with_deviation(self.layers(images), GROUP))
        return self.out(activated(self.dense(x.flatten(1))))


class Discriminator(nn.Module):
    """A `Trunk` with a logit, which depends on the other images of the batch: see `equalised.with_deviation`.

    Args:
        image_shape: (C, H, W), see `doublings` for the sides.
        width: channels of the maps, of those above 64 pixels at most 32768 divided by the side.
    """

    def __init__(self, image_shape: Shape, width: int = 512) -> None:
        super().__init__()
        self.trunk = Trunk(image_shape, width, features=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B,) of images (B, C, H, W)."""
        return self.trunk(images).flatten()


class ConditionalDiscriminator(nn.Module):
    """The inner product of a `Trunk`'s features and a mapped embedding of the class (StyleGAN2-ADA).

    Args:
        image_shape, width: see `Discriminator`.
        n_classes: number of classes.
    """

    def __init__(self, image_shape: Shape, n_classes: int, width: int = 512) -> None:
        super().__init__()
        self.trunk = Trunk(image_shape, width)
        self.embedding = LabelEmbedding(n_classes, self.trunk.features)
        self.mapping = Mapping(self.trunk.features, self.trunk.features, LABEL_LAYERS)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Logits (B,) of images (B, C, H, W) with labels (`one_hot`)."""
        products = self.trunk(images) * self.mapping(self.embedding(labels))
        return products.sum(1) / math.sqrt(self.trunk.features)
