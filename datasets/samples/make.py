#!/usr/bin/env python3
"""Makes the files beside this script from public packages.

    pip install pillow==13.0.0
    apt-get install ffmpeg            # 5.1.9 made the committed files
    python3 datasets/samples/make.py --work DIR [--out DIR] [--check]

DIR is where packages are downloaded to and unpacked; packages that already lie there are used. The
packages, exactly:

    apt-get download dataset-fashion-mnist=0.0~git20200523.55506a9-1
    npm pack emoji-datasource-google@16.0.0
    npm pack emoji-datasource-twitter@16.0.0
    pip download --no-deps --only-binary=:all: --python-version 37 scikit-image==0.16.2
    pip download --no-deps --only-binary=:all: sports2d==0.8.34
    pip download --no-deps --only-binary=:all: --python-version 311 --platform manylinux_2_28_x86_64 scikit-learn==1.9.1

Every package is checked against its SHA-256. With --check nothing is written: the files are made in DIR
and compared with those in --out, by pixels for PNG and byte by byte otherwise.

No code of a package is run.
"""

import argparse
import gzip
import hashlib
import io
import json
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent

# file name: (SHA-256, command that downloads it)
PACKAGES = {
    "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb": (
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        ["apt-get", "download", "dataset-fashion-mnist=0.0~git20200523.55506a9-1"],
    ),
    "emoji-datasource-google-16.0.0.tgz": (
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        ["npm", "pack", "emoji-datasource-google@16.0.0"],
    ),
    "emoji-datasource-twitter-16.0.0.tgz": (
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        ["npm", "pack", "emoji-datasource-twitter@16.0.0"],
    ),
    "scikit_image-0.16.2-cp37-cp37m-manylinux1_x86_64.whl": (
        "2aa962aa82d815606d7dad7f045f5d7ca55c65b4320d47e15a98fc92612c2d6c",
        ["pip", "download", "--no-deps", "--only-binary=:all:", "--python-version", "37",
         "scikit-image==0.16.2"],
    ),
    "scikit_learn-1.9.1-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl": (
        "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
        ["pip", "download", "--no-deps", "--only-binary=:all:", "--python-version", "311", "--platform",
         "manylinux_2_28_x86_64", "scikit-learn==1.9.1"],
    ),
    "sports2d-0.8.34-py3-none-any.whl": (
        "733b6db70742636ae9c35d870c22bd416582f579abd5881bee93a14bb0e2655d",
        ["pip", "download", "--no-deps", "--only-binary=:all:", "sports2d==0.8.34"],
    ),
}

DIGITS_SIDE = 8
EMOJI_SIDE = 32
EMOJI_COLUMNS = 44
PHOTO_SIDE = 512
PHOTOS = [
    "astronaut.png", "brick.png", "chelsea.png", "coffee.png", "grass.png", "gravel.png",
    "hubble_deep_field.jpg", "retina.jpg", "rocket.jpg",
]
CLIP_SIZE = (284, 160)
CLIP_SOURCE = (1768, 994)


def package(work: Path, prefix: str) -> Path:
    """The package file whose name starts with `prefix`, downloaded if it is not there, verified."""
    name = next(n for n in PACKAGES if n.startswith(prefix))
    digest, command = PACKAGES[name]
    path = work / name
    if not path.exists():
        print("+", " ".join(command), flush=True)
        subprocess.run(command, cwd=work, check=True)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        sys.exit(f"{path}: SHA-256 is {found}, expected {digest}")
    return path


def fashion_mnist(work: Path, out: Path) -> None:
    """The test part of the set, the two compressed files as they are."""
    out.mkdir(parents=True, exist_ok=True)
    unpacked = work / "fashion-mnist"
    subprocess.run(["dpkg-deb", "-x", package(work, "dataset-fashion-mnist"), unpacked], check=True)
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        source = unpacked / "usr/share/datasets/fashion-mnist" / name
        (out / name).write_bytes(source.read_bytes())


def digits(work: Path, out: Path) -> None:
    """The handwritten digits that scikit-learn carries, as two IDX files; counts of 0 to 16 become greys of 0 to 255."""
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(package(work, "scikit_learn")) as wheel:
        table = gzip.decompress(wheel.read("sklearn/datasets/data/digits.csv.gz")).decode()
    rows = [[int(float(value)) for value in line.split(",")] for line in table.split()]
    if any(len(row) != DIGITS_SIDE**2 + 1 or not all(0 <= count <= 16 for count in row) for row in rows):
        sys.exit("the table of digits is not what it was")
    pixels = bytes((count * 255 + 8) // 16 for row in rows for count in row[:-1])
    images = struct.pack(">2x2B3I", 8, 3, len(rows), DIGITS_SIDE, DIGITS_SIDE) + pixels
    labels = struct.pack(">2x2BI", 8, 1, len(rows)) + bytes(row[-1] for row in rows)
    (out / "images-idx3-ubyte").write_bytes(images)
    (out / "labels-idx1-ubyte").write_bytes(labels)


def shrink(picture: Image.Image) -> Image.Image:
    """Halves 64 to 32 px by averaging 2x2 pixels, with colours weighted by their alpha, and blackens
    fully transparent pixels (they compress better)."""
    small = picture.convert("RGBA").convert("RGBa").resize((EMOJI_SIDE, EMOJI_SIDE), Image.Resampling.BOX)
    small = small.convert("RGBA")
    clear = small.getchannel("A").point(lambda alpha: 255 if alpha == 0 else 0)
    small.paste((0, 0, 0, 0), mask=clear)
    return small


def emoji32(work: Path, out: Path) -> None:
    """Two atlases of 44 columns and the index, in Unicode's collation order."""
    out.mkdir(parents=True, exist_ok=True)
    index = None
    for vendor in ("google", "twitter"):
        with tarfile.open(package(work, f"emoji-datasource-{vendor}")) as archive:
            read = lambda name: archive.extractfile(f"package/{name}").read()
            symbols = [
                s for s in json.loads(read("emoji.json")) if s["has_img_google"] and s["has_img_twitter"]
            ]
            symbols.sort(key=lambda s: s["sort_order"])
            rows = [(s["unified"], s["name"] or s["short_name"], s["category"], s["subcategory"]) for s in symbols]
            if index is None:
                index = rows
            elif index != rows:
                sys.exit("the two emoji packages have different indexes")
            lines = -(-len(symbols) // EMOJI_COLUMNS)
            atlas = Image.new("RGBA", (EMOJI_COLUMNS * EMOJI_SIDE, lines * EMOJI_SIDE))
            for at, symbol in enumerate(symbols):
                picture = Image.open(io.BytesIO(read(f"img/{vendor}/64/{symbol['image']}")))
                if picture.size != (64, 64):
                    sys.exit(f"{vendor} {symbol['image']}: size {picture.size}")
                row, column = divmod(at, EMOJI_COLUMNS)
                atlas.paste(shrink(picture), (column * EMOJI_SIDE, row * EMOJI_SIDE))
        atlas.save(out / f"{vendor}.png", optimize=True)
    if any("\t" in field or "\n" in field for row in index for field in row):
        sys.exit("a field of the emoji index holds a tab")
    text = "unified\tname\tcategory\tsubcategory\n" + "".join("\t".join(row) + "\n" for row in index)
    (out / "index.tsv").write_text(text, encoding="utf-8", newline="\n")


def photos_cc0(work: Path, out: Path) -> None:
    """Nine photographs, at most 512 px, as JPEG."""
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(package(work, "scikit_image")) as wheel:
        for name in PHOTOS:
            picture = Image.open(io.BytesIO(wheel.read(f"skimage/data/{name}")))
            if picture.mode not in ("L", "RGB"):
                picture = picture.convert("RGB")
            scale = min(1.0, PHOTO_SIDE / max(picture.size))
            size = tuple(round(side * scale) for side in picture.size)
            if size != picture.size:
                picture = picture.resize(size, Image.Resampling.LANCZOS)
            stem = name.split(".")[0].removesuffix("_deep_field")
            picture.save(out / f"{stem}.jpg", quality=90, optimize=True)


def walk_clip(work: Path, out: Path) -> None:
    """Every second frame, shrunk, as JPEG files in one uncompressed archive."""
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(package(work, "sports2d")) as wheel:
        video = work / "demo.mp4"
        video.write_bytes(wheel.read("Sports2D/Demo/demo.mp4"))
    raw = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", video, "-vf", r"select=not(mod(n\,2))", "-vsync", "0",
         "-sws_flags", "bitexact+accurate_rnd+full_chroma_int", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"],
        check=True, capture_output=True,
    ).stdout
    frame_bytes = CLIP_SOURCE[0] * CLIP_SOURCE[1] * 3
    if not raw or len(raw) % frame_bytes:
        sys.exit(f"{video}: {len(raw)} bytes of frames are no multiple of {frame_bytes}")
    with tarfile.open(out / "frames.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(len(raw) // frame_bytes):
            pixels = raw[number * frame_bytes:(number + 1) * frame_bytes]
            frame = Image.frombytes("RGB", CLIP_SOURCE, pixels)
            frame = frame.resize(CLIP_SIZE, Image.Resampling.LANCZOS)
            jpeg = io.BytesIO()
            frame.save(jpeg, "JPEG", quality=85, optimize=True)
            entry = tarfile.TarInfo(f"frame-{number:03}.jpg")
            entry.size = len(jpeg.getvalue())
            jpeg.seek(0)
            archive.addfile(entry, jpeg)


def same(made: Path, kept: Path) -> bool:
    """Equal bytes, or equal pixels for PNG (whose compression depends on the zlib in use)."""
    if not kept.exists():
        return False
    if made.suffix == ".png":
        a, b = Image.open(made), Image.open(kept)
        return a.mode == b.mode and a.size == b.size and a.tobytes() == b.tobytes()
    return made.read_bytes() == kept.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for packages and unpacked files")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the sets (default: beside this script)")
    parser.add_argument("--check", action="store_true", help="compare with the files in --out, write nothing there")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    target = options.work / "made" if options.check else options.out
    fashion_mnist(options.work, target / "fashion-mnist-10k")
    digits(options.work, target / "digits")
    emoji32(options.work, target / "emoji32")
    photos_cc0(options.work, target / "photos-cc0")
    walk_clip(options.work, target / "walk-clip")
    if options.check:
        files = sorted(p for p in target.rglob("*") if p.is_file())
        different = [str(p.relative_to(target)) for p in files if not same(p, options.out / p.relative_to(target))]
        if different:
            sys.exit("different: " + ", ".join(different))
        print(f"{len(files)} files are the same")


if __name__ == "__main__":
    main()
