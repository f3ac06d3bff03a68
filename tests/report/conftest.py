"""What tests of pictures share."""

import pytest

from robust_tf.report import plots


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    found = []
    save = plots._save

    def keep(figure, path):
        found.append(figure)
        save(figure, path)

    monkeypatch.setattr(plots, "_save", keep)
    return found
