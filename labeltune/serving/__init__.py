"""Predicting for others: whole files, HTTP, and a chat in the browser.

Modules: `tables` and `batch` (files), `http_api`, and the package `chat`.
"""
