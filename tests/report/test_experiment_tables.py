"""Published and measured results of all experiments, side by side."""

import json

import pytest

import robust_tf as rt
from robust_tf.experiments import listing
from robust_tf.report import experiment_tables
from robust_tf.report import published

MEASURED = {"clean_accuracy": 0.99, "pgd_accuracy": 0.96, "examples": 10000}
MEASURED |= {"certified_by": {"ibp": 0.9, "crown-ibp": 0.95}}


def write(folder, **contents):
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def rounded(record):
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in record.items()}


def test_a_run_with_and_without_a_published_number(tmp_path):
    first = write(tmp_path / "mnist_eps0.1_mmr_fc1", summary=MEASURED)
    second = write(tmp_path / "digits_eps0.1_crown_ibp", summary=MEASURED)
    runs = {path.name: [path] for path in (first, second)}
    found = experiment_tables.rows(list(runs), runs)
    assert [row["experiment"] for row in found] == list(runs)
    wanted = {"clean": 0.0211, "attacked": 0.225, "verified": 0.249}
    assert {key: found[0]["published"][key] for key in wanted} == wanted
    assert found[0]["published"]["source"] == "arXiv:1810.07481, table 1"
    wanted = {"clean": 0.01, "attacked": 0.04, "verified": 0.05, "by": "CROWN-IBP"}
    assert rounded(found[0]["measured"]) == wanted
    assert found[1]["published"] == {}
    text = experiment_tables.render(found)
    (line,) = [one for one in text.splitlines() if "mmr_fc1" in one]
    cells = line.split("  ")
    assert {"2.11 / 1.00", "22.50 / 4.00", "24.90 / 5.00"} <= {c.strip() for c in cells}
    assert "exact methods / CROWN-IBP" in line


def test_the_record_of_more_images_counts(tmp_path):
    few = MEASURED | {"examples": 100, "clean_accuracy": 1.0}
    run = write(tmp_path / "a", summary=MEASURED, evaluation={"models": [few]})
    assert experiment_tables.measured(run)["clean"] == pytest.approx(0.01)
    run = write(tmp_path / "b", summary=few, evaluation={"models": [MEASURED]})
    assert experiment_tables.measured(run)["clean"] == pytest.approx(0.01)


def test_other_images_are_not_mixed_in(tmp_path):
    verification = {"certified_accuracy": 0.97, "examples": 566}
    run = write(
        tmp_path / "a", summary=MEASURED, verification_summary=verification
    )  # fmt: skip
    found = experiment_tables.measured(run)
    assert found["verified"] == pytest.approx(0.05)
    assert found["by"] == "CROWN-IBP, 3.00 by verification of 566 images"


def test_exact_methods_and_smoothing(tmp_path):
    exact = {"lower_bound": 0.2, "upper_bound": 0.3, "examples": 50}
    record = MEASURED | {"robust_error": exact}
    run = write(tmp_path / "a", evaluation={"models": [record]})
    wanted = {"clean": 0.01, "attacked": 0.2, "verified": 0.3}
    wanted["by"] = "exact methods, 50 images"
    assert rounded(experiment_tables.measured(run)) == wanted
    smoothed = {"clean_accuracy": 0.75, "acr": 1.5, "examples": 500}
    run = write(tmp_path / "b", certification_summary=smoothed)
    wanted = {"clean": 0.25, "acr": 1.5, "by": "smoothing, 500 images"}
    assert experiment_tables.measured(run) == wanted


def test_a_family_has_a_row_for_each_member_and_the_best(tmp_path):
    family = tmp_path / "mnist_medium_eps0.3_crown_ibp"
    runs = [
        write(
            family / name,
            summary=MEASURED | {"certified_by": {"ibp": certified}},
        )
        for name, certified in {"narrow": 0.9, "wide": 0.91}.items()
    ]
    found = experiment_tables.rows([family.name], {family.name: runs})
    by_member = {row["experiment"].removeprefix(family.name): row for row in found}
    fourth = "/cnn_3layer_fixed_kernel_5_width_16"
    assert set(by_member) == {"", fourth, "/narrow", "/wide"}
    assert by_member[""]["published"]["verified"] == 0.0746
    assert by_member[""]["measured"]["verified"] == pytest.approx(0.09)
    assert by_member[""]["measured"]["by"] == "IBP, wide"
    assert by_member[fourth]["measured"] == {}
    assert by_member["/narrow"]["published"] == {}


def test_what_is_published_is_of_an_experiment_and_has_a_source():
    records = published.published_experiments()
    names = listing.names()
    assert {record["experiment"] for record in records} <= set(names)
    pairs = [(record["experiment"], record["member"]) for record in records]
    assert len(set(pairs)) == len(pairs)
    for record in records:
        assert record["source"] and record["by"]
        assert {"verified", "acr"} & set(record)
        bounds = [record.get(key, 0.0) for key in ("clean", "attacked", "verified")]
        assert all(0.0 <= bound <= 1.0 for bound in bounds)
        if "attacked" in record:
            assert record["clean"] <= record["attacked"] <= record["verified"]


def test_published_numbers_are_those_in_the_files_headers():
    """Errors or accuracies in percent, or radii, wherever the header breaks."""
    root = listing.configuration.config_root()
    for record in published.published_experiments():
        name = f"{record['experiment']}.gin"
        (path,) = [p for p in (root / "experiments" / name, root / "families" / name)
                   if p.is_file()]  # fmt: skip
        text = path.read_text().partition("include '")[0].replace("\n# ", " ")
        for key in {"clean", "attacked", "verified"} & set(record):
            error = 100.0 * record[key]
            shown = {f"{value:.{d}f}" for value in (error, 100.0 - error)
                     for d in range(3)}  # fmt: skip
            words = set(text.replace(",", " ").split())
            assert shown & words, (name, key, error)
        if "acr" in record:
            assert f"{record['acr']:.3f}" in text, name


def test_every_experiment_and_the_shipped_models_are_listed():
    names = listing.names()
    found = experiment_tables.rows(names, listing.runs_by_experiment([]))
    assert {row["experiment"].partition("/")[0] for row in found} >= set(names)
    (row,) = [row for row in found if row["experiment"] == "mnist_eps0.3_crown_ibp"]
    assert round(row["measured"]["verified"], 4) == 0.1087
    assert row["published"]["verified"] == 0.1


def test_bad_input(tmp_path):
    with pytest.raises(rt.InputError, match="`--run` must name a folder"):
        listing.runs_by_experiment([str(tmp_path / "none")])
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "summary.json").write_text("{")
    with pytest.raises(rt.InputError, match="cannot be read as JSON"):
        experiment_tables.measured(tmp_path / "a")
    (tmp_path / "a" / "summary.json").write_text("[]")
    with pytest.raises(rt.InputError, match="must hold a record"):
        experiment_tables.measured(tmp_path / "a")
