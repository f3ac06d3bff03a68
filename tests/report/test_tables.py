"""Tables that can be read, on a screen and in a file."""

import pytest
from absl.testing import parameterized

from robust_tf.report import tables

RECORD = {
    "dataset": "digits",
    "method": "crown-ibp",
    "epsilon": 0.1,
    "norm": "inf",
    "examples": 360,
    "clean_accuracy": 0.952778,
    "pgd_accuracy": 1.0,
    "certified_accuracy": 0.733333,
    "certified_by": {"crown": 0.73, "ibp": 0.713889, "crown-ibp": 0.722222},
}
TITLES = "eps clean PGD IBP CROWN-IBP CROWN cert. by any"


class TablesTest(parameterized.TestCase):
    @pytest.fixture(autouse=True)
    def _capture(self, capsys, monkeypatch):
        self.capsys, self.monkeypatch = capsys, monkeypatch

    def printed(self, *arguments):
        tables.show(*arguments)
        return self.capsys.readouterr().out

    @parameterized.parameters("1", "80", "")
    def test_nothing_is_broken_or_left_out_in_a_file(self, columns):
        self.monkeypatch.setenv("COLUMNS", columns)
        record = RECORD | {"name": "runs/" + 20 * "a_long_name_"}
        header, _, row = self.printed([record]).split("\n")[1:4]
        self.assertEqual(" ".join(header.split()), f"model {TITLES}")
        self.assertEqual(
            row.split(),
            [record["name"], "0.1"]
            + ["95.28", "100.00", "71.39", "72.22", "73.00", "73.33"],
        )

    def test_what_is_printed_is_what_is_rendered(self):
        records, title = [RECORD, {"name": "b"}], "Two models"
        self.assertEqual(self.printed(records, title), tables.render(records, title))
        self.assertIn("Two models", tables.render(records, title))

    def test_every_number_is_whole_on_a_screen_of_80_columns(self):
        self.monkeypatch.setenv("FORCE_COLOR", "1")
        self.monkeypatch.setenv("TERM", "dumb")
        self.monkeypatch.setenv("COLUMNS", "80")
        text = self.printed([RECORD | {"name": "a_long_name_of_a_model"}])
        self.assertLessEqual(max(map(len, text.split("\n"))), 80)
        for number in ("95.28", "100.00", "71.39", "72.22", "73.00", "73.33"):
            self.assertIn(f" {number} ", text)

    def test_what_rows_share_is_said_once(self):
        text = tables.render([RECORD, RECORD])
        self.assertIn("percent, data digits, method crown-ibp, norm inf, n 360", text)
        text = tables.render([RECORD, RECORD | {"norm": "2", "examples": 100}])
        self.assertEndsWith(text.rstrip(), "data digits, method crown-ibp")
        header = text.split("\n")[1].split()
        self.assertEqual(header[:4], ["eps", "norm", "n", "clean"])
        self.assertNotIn(
            "data", tables.render([RECORD, {"name": "a"}]).strip().split("\n")[-1]
        )

    def test_columns_without_a_value_are_left_out(self):
        text = tables.render([{"name": "a", "clean_accuracy": 0.5, "epsilon": None}])
        self.assertEqual(text.split("\n")[1].split(), ["model", "clean"])

    def test_missing_values_are_dashes(self):
        text = tables.render([{"name": "a", "clean_accuracy": 0.5}, {"name": "b"}])
        self.assertEqual(text.split("\n")[4].split(), ["b", "-"])

    def test_unknown_methods_stand_between_the_known_and_the_total(self):
        record = {"certified_accuracy": 1.0, "certified_by": {"milp": 1.0, "ibp": 0.0}}
        header = tables.render([record]).split("\n")[1]
        self.assertEqual(header.split(), ["IBP", "milp", "cert.", "by", "any"])

    def test_brackets_are_no_markup(self):
        self.assertIn("a [red]b", tables.render([{"name": "a [red]b"}], "[/c]"))

    def test_nothing_to_show(self):
        self.assertEqual(tables.render([]).strip(), "")
