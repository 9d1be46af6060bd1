"""What every other package stands on and nothing about labelling: errors, files, downloads, environment.

Modules: `errors`, `files` (atomic writes, locks), `downloads` and `archives` (the package index), `environment`
(fingerprint).

>>> from labeltune.runtime.errors import UserError
>>> issubclass(UserError, ValueError)
True
"""
