"""Pictures for the docs of a stack at work: `CITYLOOP_PICTURES=docs pytest tests/e2e/test_loop.py`."""

import os
import shutil
from pathlib import Path

from looping import Loop

WIDE = {"width": 1440, "height": 900}


def wanted() -> Path | None:
    given = os.environ.get("CITYLOOP_PICTURES")
    return Path(given).resolve() if given and shutil.which("chromium") else None


def take(loop: Loop, name: str, service: str, path: str, until: str, key: str = "") -> None:
    """docs/NAME.png: what a person sees at `path`, logged in, once the text `until` is there and `key` was pressed."""
    folder = wanted()
    if folder is None:
        return
    from playwright.sync_api import sync_playwright

    users = loop.stack.credentials
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        known = {"username": "reviewer", "password": users["mlflow"]["reviewer"]} if service == "mlflow" else None
        page = browser.new_context(viewport=WIDE, http_credentials=known, color_scheme="light").new_page()
        page.set_default_timeout(60_000)
        address = loop.stack.urls[service]
        if service == "airflow":
            page.goto(f"{address}/auth/login")
            page.fill("input[name=username]", "reviewer")
            page.fill("input[name=password]", users["airflow"]["reviewer"])
            page.click("button[type=submit]")
            page.wait_for_url(lambda url: "/auth/login" not in url)
        page.goto(f"{address}{path}")
        page.get_by_text(until).first.wait_for()
        if key:
            page.keyboard.press(key)
        page.wait_for_timeout(3000)  # charts draw themselves in
        page.screenshot(path=folder / f"{name}.png")
        browser.close()
