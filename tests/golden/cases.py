"""cases/: Parquet files with labels and columns of every kind, and images with what Pillow makes of them.

Images: JPEGs of four components with any sampling, or whose components are sampled each in its own way (written bit by bit, because no program
writes such), GIFs whose first frame does not fill the canvas. NAME.right.npy are the bytes of `Image.open(NAME).convert("RGB")`.
Those that are there are kept as they are; this script writes the arrays and the Parquet files again.
Versions: Pillow 13.0.0, pyarrow 26.0.1.
"""

import io
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

here = pathlib.Path(__file__).parent / "cases"

for path in sorted((here / "images").iterdir()):
    if path.suffix != ".npy":
        np.save(f"{path}.right.npy", np.asarray(Image.open(path).convert("RGB")))


def png(seed):
    out = io.BytesIO()
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (8, 8, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


images = [{"bytes": png(i), "path": f"{i}.png"} for i in range(4)]
struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(name, columns, features=None, **how):
    table = pa.table(columns)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, here / f"{name}.parquet", **how)


def labelled(name, labels, **how):
    write(name, {"image": pa.array(images, struct), "label": labels}, **how)


labelled("label_str", pa.array(["cat", "dog", "cat", "owl"]))
labelled("label_dict", pa.array(["a", "b", "a", "c"]).dictionary_encode())
labelled("label_bool", pa.array([True, False, True, False]))
labelled("label_m100", pa.array([-100, 1, 2, 3]))
labelled("label_list", pa.array([[0], [1, 2], [], [3]]))
labelled("label_large", pa.array([1700000000, 1, 2, 1 << 40]))
labelled("delta_len", pa.array([0, 1, 2, 3]), use_dictionary=False, column_encoding={"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"})
names = {"names": ["a", "b", "c", "d"], "_type": "ClassLabel"}
for column in ["jpg", "png"]:
    columns = {column: pa.array(images, struct), "label": pa.array([0, 1, 2, 3])}
    write(f"col_{column}", columns, {column: {"_type": "Image"}, "label": names})
short = {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}
write("names_short", {"image": pa.array(images, struct), "label": pa.array([0, 1, 2, 3])}, short)
write("target", {"image": pa.array(images, struct), "target": pa.array([0, 1, 0, 1])})
plain = pa.array([None if i == 0 else image["bytes"] for i, image in enumerate(images)])
first = pa.array([image["bytes"] for image in images])
write("unsaid", {"note": pa.array([b"no image"] * 4), "first": first, "second": plain, "label": pa.array([0, 1, 2, 3])})
write("image_int", {"image": pa.array([1, 2, 3, 4]), "label": pa.array([0, 1, 2, 3])})
