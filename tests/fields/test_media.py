import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from raydiance.fields import VoxelField
from raydiance.fields.media import contact_sheet, to_uint8, turntable, write_png, write_video


def test_contact_sheet_places_its_tiles() -> None:
    tiles = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8)
    sheet = contact_sheet(tiles, 3, gap=1)
    assert sheet.shape == (2 * 5 - 1, 3 * 7 - 1, 3)
    assert sheet[0, 7].tolist() == [1, 1, 1] and sheet[5, 0].tolist() == [3, 3, 3]
    assert sheet[4, 0].tolist() == [255] * 3 and sheet[5, 14].tolist() == [255] * 3
    labelled = contact_sheet(tiles, 5, labels=["a", "b", "c", "d", "e"])
    assert labelled.shape[0] == 17 and (labelled[4:] < 128).any()


def test_alpha_lies_over_white() -> None:
    image = np.zeros((2, 2, 4), np.uint8)
    image[0, 0] = (255, 0, 0, 128)
    sheet = contact_sheet([image], 1)
    assert sheet[0, 0].tolist() == [255, 127, 127] and sheet[1, 1].tolist() == [255] * 3


def test_a_nan_is_not_shown_as_black() -> None:
    image = torch.zeros(2, 2, 3)
    assert to_uint8(image + 0.5).tolist() == [[[128] * 3] * 2] * 2
    image[0, 1, 1] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(image)


def test_png_keeps_pixels_and_metadata(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    write_png(tmp_path / "a.png", image, {"raydiance": '{"seed": 7}', "title": "a chair"})
    with Image.open(tmp_path / "a.png") as again:
        assert again.text == {"raydiance": '{"seed": 7}', "title": "a chair"}
        assert np.array_equal(np.asarray(again), image)


def test_videos_play(tmp_path: Path, ball_field: VoxelField) -> None:
    frames = turntable(ball_field, num_frames=6, size=33, num_samples=32)
    assert frames.shape == (6, 33, 33, 3)
    right_to_left = frames[0, 16, 16].astype(int) - frames[3, 16, 16]
    assert right_to_left[0] > 50  # view 0 sees the red side at +x, view 3 the other one
    write_video(tmp_path / "a.mp4", frames, fps=12)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(tmp_path / "a.mp4"), "-f", "rawvideo"]
    done = subprocess.run([*command, "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    assert b"h264" in done.stderr and b"34x34" in done.stderr and b"12 fps" in done.stderr
    played = np.frombuffer(done.stdout, np.uint8).reshape(-1, 34, 34, 3)
    assert len(played) == 6
    assert np.abs(played[2][4:-4, 4:-4].astype(int) - frames[2][4:-3, 4:-3]).mean() < 6
    write_video(tmp_path / "a.webp", frames, fps=12)
    with Image.open(tmp_path / "a.webp") as film:
        assert film.n_frames == 6 and film.size == (33, 33)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    frame = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match=r"\.mp4 or \.webp"):
        write_video(tmp_path / "a.gif", [frame], fps=12)
    with pytest.raises(ValueError, match="one size"):
        contact_sheet([frame, np.zeros((5, 4, 3), np.uint8)], 2)
    with pytest.raises(ValueError, match="as many labels"):
        contact_sheet([frame], 1, labels=[])
    with pytest.raises(OSError, match="ffmpeg could not write"):
        write_video(tmp_path / "missing" / "a.mp4", [frame], fps=12)
