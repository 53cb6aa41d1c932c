"""The run-time type checker of the tests: beartype, where a float may be written as an int (PEP 484)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
