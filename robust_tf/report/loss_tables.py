"""Tables of losses for people: in nats, one row for each coefficient."""

import rich.box
import rich.console
import rich.table
import rich.text

from robust_tf.report import printing

TITLES = {
    "natural": "natural",
    "adversarial": "adversarial",
    "crown": "CROWN",
    "ibp": "IBP",
    "cc-ibp": "CC-IBP",
    "mtl-ibp": "MTL-IBP",
    "exp-ibp": "Exp-IBP",
    "sabr": "SABR",
}


def show(record: dict) -> None:
    """Prints the losses of one model, and its tuning statistics if it has any.

    Args:
        record: of `losses.json`.
    """
    printing.show(
        rich.text.Text(f"\n{record['name']}", style="bold"),
        _table([_titled(record["losses"])]),
        _table(_rows(record)),
        rich.text.Text(_note(record), style="italic"),
        *([_tuning(record["tuning"])] if "tuning" in record else []),
    )


def _rows(record) -> list[dict]:
    """One row for each coefficient."""
    rows = []
    for place, coefficient in enumerate(record["coefficients"]):
        by_method = {name: one[place] for name, one in record["by_method"].items()}
        rows.append({"coefficient": f"{coefficient:g}"} | _titled(by_method))
    return rows


def _titled(losses) -> dict:
    return {TITLES[name]: loss for name, loss in losses.items()}


def _table(rows) -> rich.table.Table:
    table = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False
    )
    for name in rows[0]:
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    return table


def _cell(value) -> str:
    return value if isinstance(value, str) else f"{value:.4f}"


def _note(record) -> str:
    factor = record["attack_eps_factor"]
    facts = [
        f"data {record['dataset']} ({record['split']})",
        f"eps {record['epsilon']:g}",
        f"norm {record['norm']}",
        f"n {record['examples']}",
    ]
    if factor != 1.0:
        facts.append(f"attacks of training losses at {factor:g} eps")
    return (
        f" mean losses in nats, {', '.join(facts)}\n Exp-IBP: powers of the means "
        f"{record['exp_ibp_means']}; training takes those of a batch\n"
    )


def _tuning(tuning) -> rich.console.Group:
    """The training loss of one method against the loss of verified margins."""
    whole = tuning["whole_split"]
    split = {
        "n": str(whole["examples"]),
        "clean (%)": f"{100.0 * whole['clean_accuracy']:.2f}",
        "natural": whole["natural_loss"],
        "adversarial": whole["adversarial_loss"],
        "IBP": whole["ibp_loss"],
    }
    held = {
        "n": str(tuning["examples"]),
        "method": f"{TITLES[tuning['method']]} {tuning['coefficient']:g}",
        "training loss": tuning["training_loss"],
        "verified loss": tuning["verified_loss"],
        "mean difference": tuning["mean_difference"],
        "RMS difference": tuning["rms_difference"],
        "verified (%)": f"{100.0 * tuning['verified_accuracy']:.2f}",
    }
    note = f" losses in nats; margins verified by: {tuning['verifier']}\n"
    return rich.console.Group(
        "Tuning statistics: the whole split, and the examples chosen",
        _table([split]),
        _table([held]),
        rich.text.Text(note, style="italic"),
    )
