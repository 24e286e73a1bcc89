"""WebDatasets: tar files in which `<key>.jpg` (or another image) and `<key>.json` are one sample."""

from datasets import Dataset, Image


def unpack_samples(dataset: Dataset) -> Dataset:
    """
    Return a data set whose columns are the image and the fields of the JSON, where it is a WebDataset; else itself.

    Nothing is copied: `datasets` has written the samples to its cache, which is memory-mapped.
    """
    images = [name for name, feature in dataset.features.items() if isinstance(feature, Image)]
    if not {"__key__", "json"} <= dataset.features.keys() or not images:
        return dataset
    flat = dataset.flatten(max_depth=2)  # of the JSON, not of its objects
    fields = {name: name.removeprefix("json.") for name in flat.column_names if name.startswith("json.")}
    return flat.select_columns([images[0], *fields]).rename_columns({images[0]: "image", **fields})
