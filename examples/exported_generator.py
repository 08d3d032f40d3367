"""An exported generator in plain torch: the folder needs neither Gantry nor this repository.

python train.py experiment=smoke tracking=none
python sample.py run=latest export=exported formats=[safetensors] tracking=none
python examples/exported_generator.py exported
"""

import sys

import torch

sys.path.insert(0, sys.argv[1])
from generator import load, save  # the exported folder's own file

network = load()
z_dim = 100  # of generator.json
with torch.inference_mode():
    images = network(torch.randn(64, z_dim))  # (64, C, H, W) in [-1, 1]
save(images, "drawn.png")
print(f"drawn.png: {len(images)} images of {tuple(images.shape[1:])}")
