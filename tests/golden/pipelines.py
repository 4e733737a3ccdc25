"""Makes pipelines/: checkpoints of timm and transformers with their own configs, and the features of their own pipelines.

    pip install torch==2.15.0 torchvision==0.29.2 timm==1.0.31 transformers==5.24.0
    python tests/golden/pipelines.py [OUT]

`NAME/` is what the library writes of a model: `config.json` (timm: its `pretrained_cfg` among it), `preprocessor_config.json`
(transformers), and the head of `model.safetensors`, whose numbers come from a formula (filled.py). `pictures/` has
three photographs that nobody took, none of them square, all wider than high: Pillow 13 resizes some tall images rows first, which Pillow
before it did not, nor does sslmem; and of sizes from which transformers' two backends cut out the same middle (where half a pixel is
left over, Pillow's rounds down, torchvision's to even, as sslmem does). `features.safetensors` has [3, width] of each, f32: the library's transform of
PIL images (of transformers its Pillow backend), then the library's model; of a ViT the class token after the last norm, of a ResNet the
pooled map.
"""

import pathlib
import sys
import tempfile

import numpy as np
import timm
import torch
import transformers as hf
from PIL import Image
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch
from timm.models._hub import save_config_for_hf
from timm.data import create_transform, resolve_model_data_config

import formula
from filled import fill

# Name of timm with its tag: crop_pct, interpolation, mean and std differ.
TIMM = [
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k",  # .9, bicubic, half
    "vit_small_patch16_224.dino",  # .9, bicubic, ImageNet's
    "deit_tiny_patch16_224.fb_in1k",  # .9, bicubic, ImageNet's
    "resnet18.a1_in1k",  # .95, bicubic
    "resnet34.tv_in1k",  # .875, bilinear
    "resnet50.a1_in1k",
]


def hugging_face():
    """Name to model and preprocessor."""
    tiny = dict(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768)
    yield "vit", hf.ViTModel(hf.ViTConfig(**tiny), add_pooling_layer=False), hf.ViTImageProcessorPil()
    # Twelve heads, an eps that matters, a square of 256 from which the middle is cut out.
    other = {**tiny, "num_attention_heads": 12}
    deit = hf.DeiTImageProcessorPil()
    yield "vit_other", hf.ViTModel(hf.ViTConfig(**other, layer_norm_eps=0.1), add_pooling_layer=False), deit
    small = dict(hidden_size=64, num_hidden_layers=4, num_attention_heads=2)
    bit = hf.BitImageProcessorPil(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224})
    yield "dinov2", hf.Dinov2Model(hf.Dinov2Config(**small, image_size=224, patch_size=14)), bit
    basic = dict(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
    convnext = hf.ConvNextImageProcessorPil(size={"shortest_edge": 224}, crop_pct=0.875)
    yield "resnet", hf.ResNetModel(hf.ResNetConfig(**basic)), convnext


def picture(number, width, height):
    """Waves and a few edges, which resizing filters treat differently."""
    y, x = np.mgrid[0:height, 0:width] / 100.0
    values = formula.uniform(4100 + number, (3, 6))
    planes = []
    for v in values:
        wave = np.sin(9 * v[0] * x + 7 * v[1] * y) + np.sin(15 * v[2] * x * y + 6 * v[3])
        edge = ((x * (1 + v[4]) + y * (1 + v[5])) * 3 % 1 > 0.5).astype(float)
        planes.append(0.5 + 0.17 * wave + 0.25 * (edge - 0.5))
    return Image.fromarray((np.clip(np.stack(planes, 2), 0, 1) * 255).round().astype(np.uint8))


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "pipelines"
    (out / "pictures").mkdir(parents=True)
    for i, (width, height) in enumerate([(310, 240), (284, 236), (330, 250)]):
        picture(i, width, height).save(out / "pictures" / f"{i}.jpg", quality=60)
    pictures = [Image.open(path).convert("RGB") for path in sorted((out / "pictures").iterdir())]
    features = {}
    with torch.no_grad():
        for name in TIMM:
            model = timm.create_model(name, pretrained=False, num_classes=0)
            with tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                save_config_for_hf(model, str(folder / "config.json"))
                save_torch({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
                fill(folder, out / name)
                model.load_state_dict(load_torch(folder / "model.safetensors"))
            transform = create_transform(**resolve_model_data_config(model), is_training=False)
            features[name] = model.eval()(torch.stack([transform(picture) for picture in pictures]))
        for name, model, processor in hugging_face():
            with tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                model.save_pretrained(folder)
                processor.save_pretrained(folder)
                fill(folder, out / name)
                model = type(model).from_pretrained(folder).eval()
            found = model(**processor(pictures, return_tensors="pt"))
            pooled = found.pooler_output.flatten(1) if name == "resnet" else found.last_hidden_state[:, 0]
            features[name] = pooled
    features = {name: np.ascontiguousarray(value.numpy()) for name, value in features.items()}
    for name, value in features.items():
        print(f"{name:45} {value.shape} largest {np.abs(value).max():.3f}, between pictures {np.abs(value[0] - value[1]).max():.3f}")
    save_file(features, out / "features.safetensors")


if __name__ == "__main__":
    main()
