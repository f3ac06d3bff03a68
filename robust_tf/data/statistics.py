"""Published statistics of the pixels, for the normalisation layer of a model."""

from robust_tf.errors import InputError

Channels = tuple[float, ...]

_IDENTITY = ((0.0,), (1.0,))

# Mean and standard deviation per channel (RGB) of training pixels in [0, 1], as the
# published systems of certified training wrote them down: their values, digits
# included, are what their numbers rest on. Sources: CROWN-IBP (arXiv:1906.06316) for
# MNIST, Fashion-MNIST (no normalisation), CIFAR-10 and SVHN; fast certified training
# (arXiv:2103.17268) for TinyImageNet; expressive losses (arXiv:2305.13991) for
# downscaled ImageNet; randomized smoothing (arXiv:1902.02918) for ImageNet; maximum
# margin regularization (arXiv:1810.07481) for GTS (no normalisation).
NORMALIZATIONS: dict[str, tuple[Channels, Channels]] = {
    "digits": _IDENTITY,
    "mnist": _IDENTITY,
    "fashion_mnist": _IDENTITY,
    "gts": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "svhn_cropped": (
        (0.43768206, 0.44376972, 0.47280434),
        (0.19803014, 0.20101564, 0.19703615),
    ),
    "tiny_imagenet": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    "imagenet_resized/64x64": ((0.4815, 0.4578, 0.4082), (0.2153, 0.2111, 0.2121)),
    "imagenet2012": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def normalization(name: str) -> tuple[Channels, Channels]:
    """Returns the published mean and standard deviation per channel.

    A model normalises by `(x - mean) / std`, with `x` in [0, 1]. Mean 0 and standard
    deviation 1 say that the published systems do not normalise this set.

    Args:
        name: of the data set, as `load` takes it; a version (`mnist:3.0.1`) is
            ignored.

    Raises:
        InputError: where no published values are known.
    """
    known = NORMALIZATIONS.get(name.split(":")[0])
    if known is None:
        raise InputError(
            "Published pixel statistics are known only of "
            f"{sorted(NORMALIZATIONS)}. Received: {name!r}. Give the model its mean "
            "and standard deviation per channel, or none for no normalisation."
        )
    return known
