"""Write images and captions into one HDF5 file; see `python -m preprocess --help`."""
