"""Clips and their features in shards: large files on a disk or an object store, read by many machines.

SET/shards.json             the catalog: which clips are in which shard; it is written last
SET/clips/00000.tar         aligned clips, and beside a drawn one the .json of its mouth
SET/clips/00000.json        what was written into that shard, from which an interrupted writing goes on
SET/latents-1a2b3c4d5e6f/   a feature of the same clips, shard for shard; named as in a cache (see `data.features`)
    part.json               its settings, and the size and hash of each of its shards; it is written last
    00000.tar               KEY.safetensors of every clip of shard 0
"""
