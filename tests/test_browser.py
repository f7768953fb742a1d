"""The browser of the tests sees what it is there for: errors of scripts, requests, the width of a phone."""

from pathlib import Path

pytest_plugins = ["tests.browser"]


def test_errors_and_requests_of_a_page_are_seen(browser, tmp_path: Path):
    page = tmp_path / "page.html"
    page.write_text("<img src='missing.png'><script>nothing.at.all</script>")
    browser.open(page.as_uri())
    assert any("nothing is not defined" in message for message in browser.messages())
    assert browser.requests() == [page.as_uri(), (tmp_path / "missing.png").as_uri()]


def test_a_page_can_be_shown_as_wide_as_a_phone(browser, tmp_path: Path):
    page = tmp_path / "page.html"
    page.write_text("<meta name=viewport content='width=device-width'><p>text</p>")
    browser.open(page.as_uri(), width=360, height=740)
    assert browser.run("return document.documentElement.clientWidth") == 360
    assert browser.messages() == []
