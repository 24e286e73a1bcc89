"""Videos are detected in frame by frame, written with boxes, and their objects followed."""

import json
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dino_detr import Detector
from dino_detr.cli import main
from dino_detr.inference import predict_video
from dino_detr.inference.video import VideoWriter

av = pytest.importorskip("av")

RATE, FRAMES = 10, 24
GREEN_GONE = range(10, 13)  # frames without the green one


def boxes_of(number: int) -> dict[str, list[int]]:
    """A red rectangle moves to the right, a green one up; they are classes cat and dog of the stand-in."""
    boxes = {"cat": [4 + 4 * number, 10, 34 + 4 * number, 40]}
    if number not in GREEN_GONE:
        boxes["dog"] = [120, 90 - 2 * number, 146, 116 - 2 * number]
    return boxes


def picture(number: int) -> Image.Image:
    pixels = np.zeros((120, 160, 3), dtype=np.uint8)
    for name, (x1, y1, x2, y2) in boxes_of(number).items():
        pixels[y1:y2, x1:x2] = {"cat": (255, 0, 0), "dog": (0, 255, 0)}[name]
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """Frames of 160 x 120, each 0.1 s, the last shown half a second late."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv444p"
        for number in range(FRAMES):
            frame = av.VideoFrame.from_image(picture(number))
            frame.pts = number if number < FRAMES - 1 else number + 5
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turned(film: Path, path: Path) -> Path:
    """The same with a matrix in its header that has players turn it by 90 degrees clockwise."""
    content = film.read_bytes()
    one, unit = 1 << 16, 1 << 30
    upright = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, unit)
    right = struct.pack(">9i", 0, one, 0, -one, 0, 0, 120 * one, 0, unit)
    start = content.index(upright, content.index(b"tkhd"))
    path.write_bytes(content[:start] + right + content[start + len(right) :])
    return path


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def predict(checkpoint, film, output, *options) -> list[dict]:
    main(["predict", str(checkpoint), str(film), "--output", str(output), *options])
    return [json.loads(line) for line in (output / film.with_suffix(".jsonl").name).read_text().splitlines()]


def test_every_frame_is_drawn_and_listed(checkpoint, film, sees_large_blobs, tmp_path):
    lines = predict(checkpoint, film, tmp_path / "out", "--batch_size", "5")
    assert [line["frame"] for line in lines] == [*range(FRAMES)]
    assert [line["time"] for line in lines] == pytest.approx([*(n / RATE for n in range(FRAMES - 1)), 2.8])
    for number, line in enumerate(lines):
        found = {one["label"]: one["box"] for one in line["detections"]}
        assert found == {name: pytest.approx(box, abs=3) for name, box in boxes_of(number).items()}
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    names = {"image": str(film), "picture": "film.mp4", "frame_lines": "film.jsonl"}
    assert entries == [names | {"frames": FRAMES, "width": 160, "height": 120, "detections": []}]

    drawn = frames_of(tmp_path / "out" / "film.mp4")
    assert len(drawn) == FRAMES and drawn[0].shape == (360, 480, 3)  # enlarged, for labels to be read
    small = [np.asarray(Image.fromarray(frame).resize((160, 120)), dtype=int) for frame in drawn]
    for number in (0, 11, 23):
        changed = np.abs(small[number] - np.asarray(picture(number), dtype=int)).max(2) > 80
        assert 50 < changed.sum() < 4000  # boxes and labels on the same picture
    with av.open(str(tmp_path / "out" / "film.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([line["time"] for line in lines], abs=1e-3)


def test_objects_are_followed(checkpoint, film, sees_large_blobs, tmp_path):
    pytest.importorskip("trackers")
    lines = predict(checkpoint, film, tmp_path / "out", "--track")
    tracks = {"cat": set(), "dog": set()}
    for line in lines[3:]:
        for one in line["detections"]:
            tracks[one["label"]].add(one["track"])
    assert [len(numbers) for numbers in tracks.values()] == [1, 1]  # also after three frames without the dog
    assert tracks["cat"] != tracks["dog"] and None not in tracks["cat"] | tracks["dog"]


def test_frames_are_streamed(checkpoint, film, sees_large_blobs, tmp_path, monkeypatch):
    """No more than a batch of them is decoded ahead, and a list of results holds no pixels."""
    decoded = []

    class Watched(predict_video.Video):
        def __iter__(self):
            for frame in super().__iter__():
                decoded.append(frame.index)
                yield frame

    monkeypatch.setattr("dino_detr.inference.inputs.Video", Watched)
    detector = Detector(checkpoint, "cpu")
    found = next(detector.stream(film, batch_size=3))
    assert decoded == [0, 1, 2] and found.image is not None and found.names
    every = detector(film)
    assert len(every) == FRAMES and every[7].source.time == pytest.approx(0.7)
    assert all(each.image is None for each in every)
    with pytest.raises(OSError, match="frame 7 was not kept"):
        every[7].draw()


def test_a_video_is_turned_upright(checkpoint, film, sees_large_blobs, tmp_path):
    (line, *_) = predict(checkpoint, turned(film, tmp_path / "turned.mp4"), tmp_path / "out")
    (entry,) = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert (entry["width"], entry["height"]) == (120, 160)
    boxes = {one["label"]: one["box"] for one in line["detections"]}
    x1, y1, x2, y2 = boxes_of(0)["cat"]
    assert boxes["cat"] == pytest.approx([120 - y2, x1, 120 - y1, x2], abs=3)


def test_videos_beside_images_and_again(checkpoint, film, photos, sees_large_blobs, tmp_path, capsys):
    """A video that cannot be read is named in a sentence, and nothing of the user's is replaced."""
    output = tmp_path / "out"
    output.mkdir()
    (output / "film.jsonl").write_text("mine")
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(film.read_bytes()[:2000])
    (tmp_path / "text.mov").write_text("no video")
    named = [str(path) for path in (photos / "0.png", film, damaged, tmp_path / "text.mov")]
    main(["predict", str(checkpoint), *named, "--output", str(output)])
    said = capsys.readouterr().err
    for name in named[2:]:
        assert f"{name}: cannot be read: no video that FFmpeg can read (Invalid data" in said
    written = {path.name for path in output.iterdir()}
    assert written == {"0.jpg", "film_1.mp4", "film_1.jsonl", "film.jsonl", "detections.json", "results.json"}
    assert (output / "film.jsonl").read_text() == "mine"
    main(["predict", str(checkpoint), str(film), "--output", str(output), "--overwrite"])
    assert {path.name for path in output.iterdir()} == written - {"0.jpg"}
    with pytest.raises(SystemExit, match=r"--track follows objects through a video, and there is none"):
        main(["predict", str(checkpoint), named[0], "--output", str(tmp_path / "other"), "--track"])


def test_a_video_that_breaks_off_leaves_nothing(checkpoint, film, sees_large_blobs, tmp_path, monkeypatch):
    def broken(self):
        yield from [*frames(self)][:3]
        raise OSError("broken off")

    frames = predict_video.Video.__iter__
    monkeypatch.setattr(predict_video.Video, "__iter__", broken)
    with pytest.raises(SystemExit, match="none of the 1 images could be read"):
        main(["predict", str(checkpoint), str(film), "--output", str(tmp_path / "out")])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"detections.json", "results.json"}


def test_pictures_of_odd_and_changing_sizes_are_written(tmp_path):
    writer = VideoWriter(tmp_path / "film.mp4", Fraction(10))
    for number, size in enumerate([(161, 121), (161, 121), (90, 200)]):
        writer.write(Image.new("RGB", size, (250, 10, 10)), number / 10)
    writer.close()
    frames = frames_of(tmp_path / "film.mp4")
    assert [frame.shape for frame in frames] == [(120, 160, 3)] * 3
    assert np.abs(frames[2].astype(int) - (250, 10, 10)).max() < 12


def test_what_is_not_installed_is_said(checkpoint, film, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(SystemExit, match=r"videos need PyAV: pip install 'dino-detr\[video\]'"):
        main(["predict", str(checkpoint), str(film), "--output", str(tmp_path / "out")])
