"""What tells one run from another."""

import hashlib
import json
import re

# Settings of a run that change how it goes on.
_TECHNIQUES = (
    "gradient_rule",
    "average_from",
    "precise_statistics",
    "statistics_batches",
)


def signature(training, data, threat, run, model, reweighting=None) -> dict[str, str]:
    """What must agree for one run to go on with another's checkpoint."""
    optimizer = model.optimizer.get_config()
    # Keras numbers the names within a process: a second call must not differ.
    optimizer["name"] = type(model.optimizer).__name__.lower()
    values = {
        "data": training.digest,
        "batch_size": str(data.batch_size),
        "augmentation": repr(data.augmentation),
        "architecture": _fingerprint(model.classifier),
        "threat": repr(threat),
        "objective": repr(model.objective),
        "ramp": repr((model.ramp, run.radius_factor, run.min_radius)),
        "optimizer": json.dumps(optimizer, default=str),
        "clipping": repr((run.max_gradient_norm, run.micro_batches)),
        "seed": str(run.seed),
    }
    # Named only where they are used: older checkpoints know nothing of them.
    for name in _TECHNIQUES:
        if getattr(run, name) is not None:
            values[name] = repr(getattr(run, name))
    noise = model.objective.noise
    if noise is not None and noise.noise_attack is not None:
        values["noise_attack"] = repr(noise.noise_attack)
    if reweighting is not None:
        values["reweighting"] = repr(reweighting)
    # Addresses of functions differ from process to process.
    return {key: re.sub(" at 0x[0-9a-f]+", "", text) for key, text in values.items()}


def _fingerprint(classifier) -> str:
    """Number of parameters, and a digest of what the layers compute."""
    layers = [
        (type(layer).__name__, layer.get_config() | {"name": None})
        for layer in classifier.operations
    ]
    content = json.dumps(layers, default=str).encode()
    digest = hashlib.sha256(content).hexdigest()
    return f"{classifier.count_params()} parameters, {digest[:16]}"
