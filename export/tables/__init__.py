"""Q-tables as people save them: arrays, and dicts by state, read as data and laid out as one array of rows."""

from export.tables.files import table_of_npy, table_of_npz, table_of_pickle, value_of
from export.tables.grid import NO_TABLE, Table, TableAsked, of_array, of_states

__all__ = [
    "NO_TABLE",
    "Table",
    "TableAsked",
    "of_array",
    "of_states",
    "table_of_npy",
    "table_of_npz",
    "table_of_pickle",
    "value_of",
]
