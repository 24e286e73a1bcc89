"""Files become batches quickly, and with the pixels of the plain way."""

import io

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from datasets import Image as ImageColumn
from PIL import Image as PILImage
from PIL import ImageCms
from torchvision.transforms import v2

from dino_detr import DinoDetrImageProcessor
from dino_detr.data import load_detection_dataset
from dino_detr.data.augmentation import build_augmentation
from dino_detr.data.decoding import decode_rgb
from dino_detr.data.samples import TrainingSamples, collate
from dino_detr.image_processing_dino_detr import upright_rgb
from dino_detr.training import parse_options
from dino_detr.training.run import prepare
