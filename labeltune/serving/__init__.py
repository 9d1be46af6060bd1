"""Serving predictions: for files, over HTTP, and in a chat in the browser.

Modules: `tables` and `batch` (files), `http_api`, and the package `chat`.
"""
