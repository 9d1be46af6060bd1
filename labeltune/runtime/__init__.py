"""Foundations of all other packages, independent of labelling: errors, files, downloads and the environment.

Modules: `errors`, `files` (atomic writes, locks), `downloads` and `archives` (the package index), `environment`
(fingerprint).

>>> from labeltune.runtime.errors import UserError
>>> issubclass(UserError, ValueError)
True
"""
