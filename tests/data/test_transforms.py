import pytest
import torch

from jepa_video.data.transforms import MEAN, STD, Augment, centre, crop, normalise


def video(b=4, t=6, size=40):
    return torch.randint(0, 256, (b, t, 3, size, size), dtype=torch.uint8)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_normalise_is_the_published_one():
    v = video()
    expected = (v.float() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[
        :, None, None
    ]
    torch.testing.assert_close(normalise(v), expected.transpose(1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_normalised_frames_do_not_depend_on_the_order_in_which_they_lie(kind):
    v = video(2, 3, 8).to(kind)
    beside = v.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)  # colours side by side
    before = beside.clone()
    assert torch.equal(normalise(beside), normalise(v)) and torch.equal(beside, before)
    assert normalise(beside).stride()[1] == 1


def test_every_frame_of_a_clip_gets_the_same_augmentation():
    still = video(t=1).expand(-1, 6, -1, -1, -1)
    out = Augment(flip=0.5)(still, 32, gen())
    torch.testing.assert_close(out, out[:, :, :1].expand_as(out), rtol=1e-4, atol=1e-4)


def test_clips_of_a_batch_are_augmented_apart():
    same = video(b=1).expand(8, -1, -1, -1, -1)
    out = Augment()(same, 32, gen())
    assert (out[0] - out[1]).abs().mean() > 0.05


def test_augmentation_repeats_with_its_generator():
    v, augment = video(), Augment(flip=0.5)
    assert torch.equal(augment(v, 32, gen(1)), augment(v, 32, gen(1)))
    assert not torch.equal(augment(v, 32, gen(1)), augment(v, 32, gen(2)))


def test_the_full_box_is_the_frame():
    v = video(size=32)
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(4, -1)
    torch.testing.assert_close(crop(v, box, 32), v.float(), rtol=1e-4, atol=1e-2)


def test_a_box_cuts_what_it_says():
    v = video(size=40)
    box = torch.tensor([[0.25, 0.5, 0.5, 0.5]]).expand(4, -1)
    torch.testing.assert_close(crop(v, box, 20), v[..., 10:30, 20:40].float(), rtol=1e-4, atol=1e-2)


def test_boxes_lie_inside_the_frame_with_the_area_asked_for():
    boxes = Augment(scale=(0.4, 0.6), aspect=(1.0, 1.0)).boxes(1000, gen())
    top, left, height, width = boxes.unbind(1)
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 1 + 1e-6).all() and (left + width <= 1 + 1e-6).all()
    area = height * width
    assert area.min() > 0.399 and area.max() < 0.601


def test_no_change_asked_for_is_no_change():
    still = Augment((1.0, 1.0), (1.0, 1.0), 0.0, 0.0, 0.0, 0.0)
    v = video(size=32)
    torch.testing.assert_close(still(v, 32, gen()), normalise(v), rtol=1e-4, atol=1e-3)


def test_the_centre_is_the_middle_square():
    v = video(size=40)[..., :, 4:36]
    expected = normalise(v[..., 4:36, :])
    torch.testing.assert_close(centre(v, 32), expected)
