"""Sentences of a small grammar, split by a hash of their text so that held-out sentences never occur in training."""

import zlib

import numpy as np

PEOPLE = ["my brother", "the farmer", "our neighbour", "Paula", "a young pilot", "the baker", "Marvin", "her mother",
          "the whole family", "Mister Bloom", "that woman", "a famous poet", "the bus driver", "everybody", "Fiona",
          "the old sailor", "somebody", "Victor", "the piano player", "Amy"]  # fmt: skip
DEEDS = ["bought", "painted", "found", "moved", "borrowed", "wanted", "threw away", "remembered", "opened", "saw",
         "promised", "watered", "offered", "broke", "wrapped", "liked", "photographed", "washed", "forgot", "mended"]  # fmt: skip
THINGS = ["a big blue van", "five purple plums", "the apple pie", "a warm winter coat", "nine paper boats",
          "the broken umbrella", "more maps", "an empty bottle", "the wooden table", "a bowl of soup", "two old books",
          "the yellow flowers", "a piece of music", "some brown bread", "the family album", "a very small puppy",
          "hot coffee", "the first photograph", "a woollen pullover", "our favourite film"]  # fmt: skip
PLACES = ["at the farm", "before supper", "on Monday morning", "in the middle of the park", "behind the cinema",
          "after the storm", "for a few pounds", "by the open window", "without a word", "in November",
          "near the harbour", "while we were waiting", "above the shop", "every afternoon", "from the first floor",
          "during the long journey", "under the bridge", "with both hands", "on the way home", "last summer"]  # fmt: skip
OPENINGS = ["", "", "", "I believe ", "Maybe ", "Of course ", "You know that ", "People say ", "Whatever happens, ",
            "Please tell me why ", "Wow, ", "We heard that "]  # fmt: skip

HELD_OUT_SHARE = 10  # one sentence in ten belongs to the held-out split


def is_held_out(sentence: str) -> bool:
    """Whether a sentence belongs to the held-out split, by the CRC-32 of its text."""
    return zlib.crc32(sentence.encode("utf-8")) % HELD_OUT_SHARE == 0


def random_sentence(rng: np.random.Generator, held_out: bool) -> str:
    """Sample one sentence of the training split or, with `held_out`, of the held-out split."""
    while True:
        words = [str(rng.choice(part)) for part in (OPENINGS, PEOPLE, DEEDS, THINGS, PLACES)]
        text = f"{words[0]}{words[1]} {words[2]} {words[3]} {words[4]}."
        text = text[0].upper() + text[1:]
        if is_held_out(text) == held_out:
            return text
