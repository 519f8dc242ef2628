"""Notebooks in a real browser: JupyterLab as a process, and headless Chromium, driven by Playwright."""
