"""`bin/certify.py` and what `bin/plot.py` makes of its folders: flags, exit status."""

import json
import pathlib
import re

import pytest

from robust_tf import files
from robust_tf import matlab
from tests.experiments.certification.cases import ALPHA
from tests.experiments.certification.cases import COUNT
from tests.experiments.certification.cases import N0
from tests.experiments.certification.cases import SIGMA
from tests.experiments.certification.cases import SKIP
from tests.experiments.certification.cases import START
from tests.experiments.certification.cases import N
from tests.experiments.certification.cases import certify
from tests.experiments.certification.cases import lines
from tests.experiments.certification.cases import rows
from tests.experiments.certification.cases import truncate

GIVEN = (
    "--dataset=digits",
    f"--sigma={SIGMA}",
    f"--start={START}",
    f"--skip={SKIP}",
    f"--max={COUNT}",
    f"--n0={N0}",
    f"--n={N}",
    f"--alpha={ALPHA}",
)


def test_flags_reach_the_records(launch, quick, tmp_path, path, whole, capsys):
    given = (f"--model={path}", f"--workdir={tmp_path}", *GIVEN)
    assert launch(*given) is None
    assert rows(tmp_path) == rows(whole[0])
    shown = capsys.readouterr().out
    assert "ACR" in shown and f"{100 * whole[1]['clean_accuracy']:.2f}" in shown
    config = (tmp_path / "certify_config.gin").read_text()
    assert f"certify_dataset.n = {N}" in config
    assert f"max_examples = {COUNT}" in config
    environment = json.loads((tmp_path / "certify_environment.json").read_text())
    assert environment["command_line"]
    # The same command goes on; what it used repeats the run.
    truncate(tmp_path / "certification.tsv", 5)
    assert launch(*given) is None
    assert rows(tmp_path) == rows(whole[0])
    again = tmp_path / "again"
    assert (
        launch(
            f"--model={path}",
            f"--workdir={again}",
            f"--gin_file={tmp_path / 'certify_config.gin'}",
        )
        is None
    )
    assert rows(again) == rows(whole[0])


def test_more_flags(launch, quick, tmp_path, path):
    """Those of the noise, and modes by gin."""
    given = (f"--model={path}", *GIVEN[:1], "--n=60", "--alpha=0.05", "--full")
    more = ("--seed=7", "--split=train", "--start=2", "--count=9", "--skip=4")
    noise = ("--sigma=0.2", "--batch_size=50", f"--workdir={tmp_path}", "--n0=20")
    assert launch(*given, *more, *noise) is None
    found = lines(tmp_path)
    assert [record["idx"] for record in found] == [2, 6, 10]
    expected = {"seed": 7, "n": 60, "sigma": 0.2, "alpha": 0.05, "mode": "full"}
    for name, value in expected.items():
        assert {record[name] for record in found} == {value}
    workdir = tmp_path / "linf"
    norm = (f"--workdir={workdir}", "--norm=inf")
    assert launch(*given, *more, *noise, *norm) is None
    assert {record["norm"] for record in lines(workdir)} == {"inf"}
    soft = ("--gin_param=certification_settings.Sampling.mode = 'soft'",)
    workdir = tmp_path / "soft"
    assert launch(*given[:-1], *more, *noise, f"--workdir={workdir}", *soft) is None
    assert "soft" in matlab.read_arrays(workdir / "certification.mat")


def test_a_run_folder_names_data_and_sigma(launch, quick, tmp_path, path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.keras").write_bytes(pathlib.Path(path).read_bytes())
    files.write_json(run / "summary.json", {"sigma": 0.2, "dataset": "digits"})
    given = (f"--model={run}", "--max=1", "--n=100", f"--workdir={tmp_path / 'out'}")
    assert launch(*given) is None
    (record,) = lines(tmp_path / "out")
    assert record["sigma"] == 0.2
    config = (tmp_path / "out" / "certify_config.gin").read_text()
    assert "sigma = 0.2" in config and "Data.name = 'digits'" in config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "`--workdir` must name the folder"),
        (("--workdir=W",), "`--model` must name a `.keras` file"),
        (
            ("--workdir=W", "--model=MODEL"),
            "`--sigma` must give the standard deviation",
        ),
        (
            ("--workdir=W", "--model=MODEL", "--sigma=0.25"),
            "`--dataset` must name the data set",
        ),
        (
            ("--workdir=W", "--model=a.pt", "--sigma=0.25", "--dataset=digits"),
            "Received: 'a.pt', which does not exist",
        ),
        (("--workdir=W", "--epsilon=0.1"), "`--epsilon` means nothing here"),
        (("--workdir=W", "--norm=3"), "`--norm` must be one of 1, 2, inf"),
        ((*GIVEN, "--workdir=W", "--model=MODEL", "--sigma=-1"), "`--sigma` must be"),
        ((*GIVEN, "--workdir=W", "--model=MODEL", "--skip=0"), "`--skip` must be"),
        ((*GIVEN, "--workdir=W", "--model=MODEL", "--max=0"), "`max_examples` must"),
        ((*GIVEN, "--workdir=W", "--model=MODEL", "--n=3"), "`--n` must be"),
        ((*GIVEN, "--workdir=W", "--model=MODEL", "--n0=1", "--n=3"), "3 samples cert"),
        ((*GIVEN, "--workdir=W", "--model=MODEL", "--start=999"), "start 999"),
        (
            (
                *(*GIVEN, "--workdir=W", "--model=MODEL"),
                "--gin_param=certification.certify_dataset.nn = 3",
            ),
            "nn",
        ),
    ],
)
def test_bad_flags(launch, tmp_path, path, capsys, arguments, message):
    def filled(text):
        return text.replace("MODEL", path).replace("=W", f"={tmp_path / 'new'}")

    assert launch(*map(filled, arguments)) == 2
    shown = capsys.readouterr().err.replace("\n", " ")
    assert re.search(message, shown), shown
    assert "Traceback" not in shown
    assert not (tmp_path / "new").exists()


def test_pictures_and_tables(quick, plot, tmp_path, path, whole, capsys, caplog):
    """Of two folders, and of a log in each published format."""
    other = tmp_path / "other"
    certify(other, path, seed=1)
    table = tmp_path / "cohen"
    table.write_bytes((whole[0] / "certification.tsv").read_bytes())
    curve = tmp_path / "eta=0.5_acc"
    curve.write_text("0.00000\t0.64340\n0.00500\t0.64230\n1.00000\t0.36170\n")
    matlab.write_arrays(tmp_path / "400.mat", {"hard": [[0.5, -1.0]]})
    out = tmp_path / "pictures"
    logs = (f"Cohen={table}", str(curve), f"MACER={tmp_path / '400.mat'}")
    runs = (f"--run={whole[0]}", f"--run={other}", f"--out={out}")
    status = plot(*runs, *(f"--log={log}" for log in logs), "--published=cifar10")
    assert status is None
    shown = capsys.readouterr().out
    assert shown == (out / "certification.txt").read_text()
    picture = (out / "certified_accuracy.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    rows_shown = {line.strip(): line.split() for line in shown.split("\n")}.values()
    macer, curve_row = (
        next(row for row in rows_shown if row[:1] == [name])
        for name in ("MACER", str(curve))
    )
    assert [cell.strip("*") for cell in macer[1:6]] == ["-", "2", "-", "50.00", "50.00"]
    assert macer[-1].strip("*") == "0.250"
    found = [cell.strip("*") for cell in curve_row[1:6]]
    assert found == ["-", "-", "-", "64.34", "36.17"]
    # The log has the very rows of the first folder.
    against = [row for row in rows_shown if row[1:2] == [whole[0].name]]
    assert [row[0] for row in against] == ["other", "Cohen"]
    assert against[1][2:] == [str(COUNT), "+0.0000", "0.0000"]
    assert float(against[0][3]) != 0.0
    assert not [one for one in caplog.records if one.levelname == "WARNING"]


def test_radii_of_different_norms_are_not_compared(
    quick, plot, tmp_path, path, whole, capsys
):
    certify(tmp_path / "linf", path, sampling={"norm": "inf"})
    runs, out = [f"--run={tmp_path / 'linf'}"], f"--out={tmp_path / 'out'}"
    assert plot(*runs, out) is None
    shown = capsys.readouterr().out
    assert "at each Linf radius" in shown and "1/255" in shown
    assert plot(*runs, f"--run={whole[0]}", out) == 2
    shown = capsys.readouterr().err.replace("\n", " ")
    assert re.search("Radii of different norms.*linf: Linf", shown), shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "`--run` must name a run folder, `--log` a log"),
        (("--log=none",), "'none' cannot be read as text"),
        (("--log=a=F", "--log=a=F"), "must give each log a name of its own"),
        (("--log=a=F", "--sigma=0"), "`--sigma` must be above 0"),
        (("--log=a=F", "--run=none"), "which is no folder"),
    ],
)
def test_bad_flags_of_the_plot(plot, tmp_path, whole, capsys, arguments, message):
    table = str(whole[0] / "certification.tsv")
    arguments = [one.replace("=F", f"={table}") for one in arguments]
    assert plot(*arguments, f"--out={tmp_path / 'out'}") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_an_end(plot, tmp_path, whole, capsys):
    """Its records are known, but nothing is drawn of them."""
    folder = tmp_path / "cut"
    folder.mkdir()
    name = "certification_counts.jsonl"
    (folder / name).write_bytes((whole[0] / name).read_bytes())
    given = (f"--run={folder}", f"--out={tmp_path / 'out'}")
    assert plot(*given) is None
    assert not (tmp_path / "out" / "certified_accuracy.png").exists()
    summary = "certification_summary.json"
    (folder / summary).write_bytes((whole[0] / summary).read_bytes())
    truncate(folder / name, 3)
    assert plot(*given) == 2
    assert "summary of 14 examples, and 3 records" in capsys.readouterr().err
