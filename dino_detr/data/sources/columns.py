"""Columns of `datasets` as numbers, also where those are written as text."""

# pyarrow makes its functions when it is imported, and the type checker does not see them
# pyright: reportAttributeAccessIssue=false

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..findings import Findings
from ..numbers import read_flag, read_number, read_whole, shown


class NumberColumn:
    """
    A column read value by value or, where Arrow has its numbers, at once.

    Args:
        values: of the column.
        name: of the column, for messages: `objects.area`.
        findings: gets that its numbers are text, once.
    """

    def __init__(self, values: pa.Array, name: str, findings: Findings):
        self.values, self.name, self.findings = values, name, findings

    def wholes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return int64 `[n]`, 0 where there is none, and where values are no whole numbers of up to 63 bits."""
        if pa.types.is_signed_integer(self.values.type):
            return self._plain(pa.int64())
        return self._read(read_whole, np.int64)

    def flags(self) -> tuple[np.ndarray, np.ndarray]:
        """Return int64 `[n]` of 0 and 1, and where values are neither."""
        if pa.types.is_boolean(self.values.type):
            return self._plain(pa.int64())
        if pa.types.is_signed_integer(self.values.type):
            numbers, wrong = self._plain(pa.int64())
            return np.where((numbers == 0) | (numbers == 1), numbers, 0), wrong | (numbers < 0) | (numbers > 1)
        return self._read(read_flag, np.int64)

    def numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """Return float64 `[n]`, 0 where there is none, and where values are no finite numbers."""
        if pa.types.is_floating(self.values.type) or pa.types.is_integer(self.values.type):
            numbers, wrong = self._plain(pa.float64())
        else:
            numbers, wrong = self._read(read_number, np.float64)
        return np.nan_to_num(numbers, posinf=0, neginf=0), wrong | ~np.isfinite(numbers)

    @property
    def absent(self) -> np.ndarray:
        """Return where there is no value, bool `[n]`. It is null, or NaN where pandas wrote that."""
        return pc.is_null(self.values, nan_is_null=True).to_numpy(zero_copy_only=False)

    def _plain(self, to: pa.DataType) -> tuple[np.ndarray, np.ndarray]:
        numbers = pc.fill_null(self.values, False if pa.types.is_boolean(self.values.type) else 0)
        numbers = numbers.cast(to, safe=False).to_numpy(zero_copy_only=False)
        return numbers, np.zeros(len(numbers), dtype=bool)

    def _read(self, read: Callable, dtype: type) -> tuple[np.ndarray, np.ndarray]:
        given = self.values.to_pylist()
        read_values = [read(value) for value in given]
        wrong = np.array([value is None for value in read_values], dtype=bool) & ~self.absent
        texts = (value for value, number in zip(given, read_values) if isinstance(value, str) and number is not None)
        if (text := next(texts, None)) is not None:
            self.findings.add("text_number", f"column {self.name}", value=f"{shown(text)}, say")
        return np.array([0 if value is None else value for value in read_values], dtype=dtype), wrong
