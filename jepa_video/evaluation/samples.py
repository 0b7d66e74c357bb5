"""A sample of held-out clips with their labels in words: what pictures are drawn of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

CLIPS: Final = 128  # the most clips that are looked at


@dataclass(frozen=True)
class Sample:
    """Held-out clips to draw.

    Attributes:
        video: `B T C H W` uint8.
        source: `B`, what each clip is cut from: its group where the set has groups, else its video.
        labels: `B L`, -1 where a label is not known.
        names: the `L` names of the labels.
        classes: the names of the classes of each label; a class without one is told by its number.
    """

    video: Tensor
    source: Tensor
    labels: Tensor
    names: Sequence[str] = ()
    classes: Mapping[str, Sequence[str]] | None = None

    def told(self, clip: int) -> dict[str, str]:
        """The classes of a clip in words, by label; those that are not known are left out."""
        words = {}
        for name, value in zip(self.names, self.labels[clip].tolist(), strict=True):
            known = (self.classes or {}).get(name, ())
            if value >= 0:
                words[name] = str(known[value]) if value < len(known) else str(value)
        return words

    def described(self, clip: int) -> str:
        """All that is known of a clip; a label that is the only one goes without its name."""
        told = self.told(clip)
        if len(self.names) == 1:
            return next(iter(told.values()), "")
        return ", ".join(f"{name} {word}" for name, word in told.items())

    def compared(self, clip: int, query: int) -> str:
        """What a clip has in common with another, as far as labels tell."""
        told, asked = self.told(clip), self.told(query)
        same = [name for name, word in told.items() if asked.get(name) == word]
        if len(self.names) == 1 and told:
            return f"{self.described(clip)} ({'same' if same else 'other'})"
        return f"same {', '.join(same)}" if same else "nothing in common" if told else ""


def sample_clips(dataset: Any, clips: int = CLIPS) -> Sample | None:
    """At most `clips` items of a `VideoClips`, evenly spread over it; None where none can be read.

    Spread, because a set is often sorted by class. An item is read once, as `dataset[i]` gives it.
    """
    count = min(clips, len(dataset))
    read = (dataset[i * (len(dataset) - 1) // max(count - 1, 1)] for i in range(count))
    items = [item for item in read if isinstance(item, dict)]  # else the file was unreadable
    if not items:
        return None
    numbers = [int(item["index"]) for item in items]
    groups = getattr(dataset, "groups", None)
    sources = [str(groups[number] if groups else number) for number in numbers]
    known: dict[str, int] = {}
    return Sample(
        video=torch.stack([item["video"] for item in items]),
        source=torch.tensor([known.setdefault(name, len(known)) for name in sources]),
        labels=torch.stack([torch.as_tensor(item["labels"]).reshape(-1) for item in items]),
        names=list(getattr(dataset, "label_names", ())),
        classes=getattr(dataset, "classes", None),
    )
