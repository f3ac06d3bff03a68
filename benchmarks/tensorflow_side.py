"""The workloads through the library, behind the driver's lines.

python -m benchmarks.tensorflow_side
"""

import keras
import tensorflow as tf

import robust_tf as rt
from benchmarks import tensorflow_step
from benchmarks import workloads
from benchmarks.protocol import Contestant
from benchmarks.protocol import serve


def prepare(name: str, threads: int) -> Contestant:
    """Returns the contestant of one workload.

    Args:
        name: a key of `workloads.WORKLOADS` or `workloads.PEAKS`.
        threads: for TensorFlow, within and between operations.
    """
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    versions = {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "robust_tf": rt.__version__,
    }
    if name in workloads.PEAKS:
        return Contestant(_peak(name), dict, versions)
    workload = workloads.WORKLOADS[name]
    images, labels = workloads.batch(
        workloads.NETWORKS[workload.network], workload.batch_size
    )
    images, labels = tf.constant(images), tf.constant(labels)
    model = converted_model(workloads.NETWORKS[workload.network])
    if workload.is_training:
        step, verify = tensorflow_step.training(model, workload, images, labels)
    else:
        step, verify = tensorflow_step.bounds(model, workload, images, labels)
    return Contestant(step, verify, versions)


def converted_model(network: workloads.Network) -> keras.Model:
    """Returns the network with its seeded weights and with bound rules."""
    return rt.convert(plain_model(network, workloads.parameters(network)))


def plain_model(network: workloads.Network, weights: list[dict]) -> keras.Model:
    """Returns the network in Keras's own layers.

    Args:
        network: the shapes.
        weights: of each affine layer, from `workloads.parameters`.
    """
    model = keras.Sequential([keras.Input(network.input_shape)])
    for layer, part in zip(network.layers, weights, strict=True):
        if layer.is_convolution and not layer.is_same_padding:
            model.add(keras.layers.ZeroPadding2D(1))
        elif not layer.is_convolution and len(model.output_shape) == 4:
            model.add(keras.layers.Flatten())
        model.add(_affine(layer))
        model.layers[-1].set_weights([part["kernel"], part["bias"]])
        if layer.has_batch_norm:
            model.add(
                keras.layers.BatchNormalization(
                    momentum=workloads.BATCH_NORM_MOMENTUM,
                    epsilon=workloads.BATCH_NORM_EPSILON,
                )
            )
            moving = model.layers[-1].get_weights()[2:]
            model.layers[-1].set_weights([part["gamma"], part["beta"], *moving])
        if layer.has_relu:
            model.add(keras.layers.ReLU())
    return model


def _affine(layer):
    units = layer.kernel_shape[-1]
    if not layer.is_convolution:
        return keras.layers.Dense(units)
    padding = "same" if layer.is_same_padding else "valid"
    return keras.layers.Conv2D(units, layer.kernel_shape[:2], layer.stride, padding)


def _peak(name):
    """One large operation; its result is waited for."""
    generator = tf.random.Generator.from_seed(0)
    if name == "peak_matmul":
        matrix = generator.uniform(workloads.PEAK_MATRIX)
        run = tf.function(lambda: tf.matmul(matrix, matrix)[0, 0])
    else:
        batch, size, channels, kernel = workloads.PEAK_CONVOLUTION
        images = generator.uniform((batch, size, size, channels))
        kernels = generator.uniform((kernel, kernel, channels, channels))
        run = tf.function(lambda: tf.nn.conv2d(images, kernels, 1, "SAME")[0, 0, 0, 0])
    return lambda: run().numpy()


if __name__ == "__main__":
    serve(prepare)
