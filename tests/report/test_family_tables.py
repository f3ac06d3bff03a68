"""A family's errors: least, median and greatest, and whose they are."""

from robust_tf.report import family_tables


def record(clean, certified, names):
    return {
        "clean_accuracy": clean,
        "certified_accuracy": certified,
        "certified_by": {"ibp": certified},
        "models": {
            "clean_accuracy": names[0],
            "certified_accuracy": names[1],
            "certified_by": {"ibp": names[1]},
        },
    }


def test_the_least_error_is_the_greatest_accuracy():
    text = family_tables.render(
        {
            "min": record(0.9, 0.5, "ab"),
            "median": record(0.95, 0.6, "ca"),
            "max": record(0.98, 0.75, "bc"),
        }
    )
    lines = [line.split() for line in text.splitlines() if line.strip()]
    assert lines[0] == ["error", "min", "of", "median", "of", "max", "of"]
    assert lines[2] == ["clean", "2.00", "b", "5.00", "c", "10.00", "a"]
    wanted = ["25.00", "c", "40.00", "a", "50.00", "b"]
    assert lines[3] == ["verified", "by", "IBP", *wanted]
    assert lines[4] == ["verified", "by", "any", *wanted]
    assert not any("PGD" in line for line in lines)
    assert "errors in percent" in text
