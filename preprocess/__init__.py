"""Pictures and captions -> one HDF5 file; `python -m preprocess --help`."""
