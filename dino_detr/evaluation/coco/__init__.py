"""Average precision as COCO defines it, of batches and of results files."""
