"""The points of a comparison: who beats whom."""

from t5patches.report import points


def scores(after, same):
    return {"prevalence": {"after": after}, "exact_match": {"clean": same}}


def test_beaten_by():
    # Name -> its scores by seed, and the names that beat it.
    table = {
        "best": ([(0.01, 0.99)], []),
        "cleaner": ([(0.0, 0.9)], []),
        "worse": ([(0.01, 0.98)], ["best", "twin"]),
        "worst": ([(0.3, 0.5)], ["best", "cleaner", "worse", "twin"]),
        "twin": ([(0.02, 0.98), (0.0, 1.0)], []),
    }
    found = points.beaten_by(
        {name: [scores(*each) for each in tests] for name, (tests, _) in table.items()}
    )
    assert found == {name: beaten_by for name, (_, beaten_by) in table.items()}
