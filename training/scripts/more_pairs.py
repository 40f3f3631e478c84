"""Makes bench10 with more than ten pairs for denoise, for Figure 3's larger N.

    python more_pairs.py BENCH10 --w2s DIR --out DIR

BENCH10 is the benchmark; --w2s has low/ and high/, the pairs that its denoise images are windows of (FFF_C.tif:
field, channel; 512x512). OUT becomes a copy of BENCH10 whose denoise/train holds all four quarters (256x256,
untouched) of every channel of every field that is in neither denoise/val nor denoise/test: 216 pairs. Fields, not
windows, are what is kept apart. Some of these fields are also in BENCH10's unpaired folders, where nothing says which
images belong together. The other tasks stay as they are. Needs tifffile.
"""

import argparse
import pathlib
import shutil

import tifffile

SIDE = 256


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench10", type=pathlib.Path)
    parser.add_argument("--w2s", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()

    def field(path):
        return path.stem.removeprefix("w2s_").split("_")[0]

    held_out = {
        field(path) for split in ("val", "test") for path in (options.bench10 / "denoise" / split).rglob("*.tif")
    }
    shutil.copytree(options.bench10, options.out)
    train = options.out / "denoise" / "train"
    shutil.rmtree(train)
    count = 0
    for source in sorted((options.w2s / "high").glob("*.tif")):
        if field(source) in held_out:
            continue
        for quarter, (y, x) in enumerate([(0, 0), (0, SIDE), (SIDE, 0), (SIDE, SIDE)]):
            for side in ("low", "high"):
                window = tifffile.imread(options.w2s / side / source.name)[y : y + SIDE, x : x + SIDE]
                path = train / side / f"w2s_{source.stem}_q{quarter}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(path, window, compression="zlib")
            count += 1
    print(f"{options.out}: {count} pairs in denoise/train, none of the {len(held_out)} fields of val and test")


if __name__ == "__main__":
    main()
