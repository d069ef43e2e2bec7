"""A version's page: sections put and found, and cut so that what a reviewer needs stays."""

import itertools

import pytest

from pipelines.release import page

CARD = """a answers: what? MAE 3.

# a

For the department.

## Results on the frozen test

| a | b |
|---|---|
| 1 | 2 |

## Size and making

It was made:

    dvc pull

## Review

    review.<your name> = approved:abc
"""
LONG = page.put(CARD, "Size and making", "\n".join(f"line {i} of many" for i in range(400)))


def test_a_section_is_put_once_and_found_again() -> None:
    text = page.put(CARD, "Lineage", "Commit `c`.")
    assert text == CARD + "\n## Lineage\n\nCommit `c`.\n"
    assert page.put(text, "Lineage", "Commit `c`.\n") == text
    assert page.get(page.put(text, "Lineage", "Commit `d`."), "Lineage") == "Commit `d`."
    assert page.get(CARD, "Lineage") is None
    assert page.get(CARD, "Review") == "    review.<your name> = approved:abc"


def test_a_new_section_stands_before_the_one_named() -> None:
    text = page.put(CARD, "Verdict", "Passed.", before=page.RESULTS)
    assert text.index("For the department.") < text.index("## Verdict\n\nPassed.\n\n## Results")
    assert text.replace("## Verdict\n\nPassed.\n\n", "") == CARD
    assert page.put(text, "Verdict", "Failed.", before="Review").index("Failed") < text.index("## Results")
    assert page.put(CARD, "Verdict", "Passed.", before="Nowhere").endswith("## Verdict\n\nPassed.\n")


def test_the_order_in_which_sections_come_does_not_matter() -> None:
    lineage, verdict = ("Lineage", "Commit `c`.", None), ("Verdict", "Passed.", page.RESULTS)
    made = set()
    for order in itertools.permutations([lineage, verdict]):
        text = CARD
        for title, body, before in order:
            text = page.put(text, title, body, before=before)
        made.add(text)
    assert len(made) == 1


def test_what_fits_stays_as_it_is() -> None:
    assert page.fit(CARD, len(CARD)) == CARD
    assert page.NOTICE in page.fit(LONG, len(LONG) - 1)


@pytest.mark.parametrize("limit", [300, 500, 1000, 5000])
def test_a_long_page_ends_at_a_line_and_keeps_what_is_reviewed(limit: int) -> None:
    text = page.fit(page.put(LONG, "Verdict", "Passed.", before=page.RESULTS), limit)
    assert limit - 60 < len(text) <= limit, "as much as there is room for"
    assert text.splitlines()[0] == "a answers: what? MAE 3."
    assert text.count(page.NOTICE) == 1
    assert page.get(text, "Verdict") == "Passed."
    assert page.get(text, "Review") == page.get(CARD, "Review")
    assert set(text.splitlines()) - {page.NOTICE, "## Verdict", "Passed."} <= set(LONG.splitlines())


@pytest.mark.parametrize("limit", [400, 800, 3000])
def test_cutting_twice_is_cutting_once(limit: int) -> None:
    once = page.fit(page.put(LONG, "Verdict", "Passed.\nAll of it.", before=page.RESULTS), limit)
    assert page.fit(once, limit) == once
    twice = page.fit(page.put(page.fit(LONG, limit), "Verdict", "Passed.\nAll of it.", before=page.RESULTS), limit)
    assert twice == once


def test_even_kept_sections_end_at_the_limit() -> None:
    assert len(page.fit(page.put(LONG, "Lineage", "x" * 900), 700)) == 700
