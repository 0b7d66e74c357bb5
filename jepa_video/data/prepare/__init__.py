"""Public datasets, as they are downloaded, and any folder -> manifests that VideoClips reads.

layouts.py       a dataset's own lists of files and labels -> entries
index.py         frames, rate, size and hash of each file; splits; what may not be
reencode.py      files -> H.264 of one short side, in helper processes
moving_mnist.py  digits -> videos
job.py           all of it in order: what `jepa-video prepare` calls
"""
