"""The words of the simulated shop: its vocabulary, and how texts are put together from attributes.

Texts are composed for whole arrays at once: object arrays of words, added element by element. Words
of one colour group (navy, cobalt) mean one thing to a shopper, so that a model which reads can
recommend an item that nobody has bought yet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.object_]
Index = NDArray[np.integer]


def _words(text: str) -> Words:
    return np.array([part.strip() for part in text.split(",")], dtype=object)


# Four groups of materials; a kind of product comes in one of them.
MATERIALS = _words(
    "stoneware, porcelain, glass, enamel, terracotta,"
    "cotton, linen, wool, velvet, jute,"
    "oak, bamboo, steel, brass, leather,"
    "lavender, citrus, ginger, vanilla, rose"
).reshape(4, 5)
HARD, SOFT, SOLID, SCENT = range(4)


@dataclass(frozen=True)
class Kind:
    """A leaf of the category tree; `goes_with` are the kinds shoppers turn to next."""

    name: str
    department: str
    materials: int
    price: float
    goes_with: tuple[str, ...]
    consumed: bool = False


KINDS = (
    Kind("mug", "Kitchen", HARD, 12, ("tea tin", "coffee tin", "teapot")),
    Kind("teapot", "Kitchen", HARD, 34, ("tea tin", "mug", "honey jar")),
    Kind("dinner plate", "Kitchen", HARD, 16, ("serving bowl", "table runner", "napkin set")),
    Kind("serving bowl", "Kitchen", HARD, 28, ("dinner plate", "cutting board", "table runner")),
    Kind("cutting board", "Kitchen", SOLID, 26, ("serving bowl", "storage jar", "apron")),
    Kind("storage jar", "Kitchen", HARD, 15, ("coffee tin", "tea tin", "cutting board")),
    Kind("apron", "Kitchen", SOFT, 24, ("cutting board", "kitchen towel", "serving bowl")),
    Kind("cushion", "Textiles", SOFT, 29, ("throw blanket", "floor lamp", "rug")),
    Kind("throw blanket", "Textiles", SOFT, 55, ("cushion", "candle", "rug")),
    Kind("rug", "Textiles", SOFT, 95, ("cushion", "floor lamp", "planter")),
    Kind("table runner", "Textiles", SOFT, 22, ("napkin set", "dinner plate", "candle")),
    Kind("napkin set", "Textiles", SOFT, 17, ("table runner", "dinner plate", "serving bowl")),
    Kind("kitchen towel", "Textiles", SOFT, 11, ("apron", "soap bar", "napkin set")),
    Kind("table lamp", "Light", SOLID, 64, ("notebook", "desk organiser", "candle")),
    Kind("floor lamp", "Light", SOLID, 120, ("rug", "cushion", "throw blanket")),
    Kind("lantern", "Light", SOLID, 32, ("candle", "planter", "throw blanket")),
    Kind("candle", "Light", SCENT, 14, ("lantern", "bath salts", "soap bar"), True),
    Kind("notebook", "Desk", SOLID, 13, ("pen", "desk organiser", "tote bag")),
    Kind("pen", "Desk", SOLID, 18, ("notebook", "pencil case", "desk organiser")),
    Kind("pencil case", "Desk", SOFT, 15, ("pen", "notebook", "backpack")),
    Kind("desk organiser", "Desk", SOLID, 31, ("pen", "table lamp", "notebook")),
    Kind("planter", "Garden", HARD, 27, ("watering can", "bird feeder", "lantern")),
    Kind("watering can", "Garden", SOLID, 30, ("planter", "bird feeder", "apron")),
    Kind("bird feeder", "Garden", SOLID, 25, ("planter", "watering can", "lantern")),
    Kind("scarf", "Wear", SOFT, 33, ("beanie", "tote bag", "gloves")),
    Kind("beanie", "Wear", SOFT, 21, ("scarf", "gloves", "backpack")),
    Kind("gloves", "Wear", SOFT, 26, ("scarf", "beanie", "tote bag")),
    Kind("tote bag", "Wear", SOFT, 19, ("scarf", "notebook", "water bottle")),
    Kind("backpack", "Travel", SOFT, 79, ("water bottle", "wash bag", "pencil case")),
    Kind("water bottle", "Travel", SOLID, 23, ("backpack", "tote bag", "wash bag")),
    Kind("wash bag", "Travel", SOFT, 28, ("soap bar", "bath salts", "backpack")),
    Kind("soap bar", "Bath", SCENT, 7, ("bath salts", "bath towel", "candle"), True),
    Kind("bath salts", "Bath", SCENT, 13, ("soap bar", "bath towel", "candle"), True),
    Kind("bath towel", "Bath", SOFT, 27, ("soap bar", "bath salts", "wash bag")),
    Kind("tea tin", "Pantry", SCENT, 9, ("honey jar", "mug", "chocolate box"), True),
    Kind("coffee tin", "Pantry", SCENT, 12, ("mug", "chocolate box", "storage jar"), True),
    Kind("honey jar", "Pantry", SCENT, 10, ("tea tin", "chocolate box", "storage jar"), True),
    Kind("chocolate box", "Pantry", SCENT, 16, ("tea tin", "coffee tin", "honey jar"), True),
)
KIND = np.array([kind.name for kind in KINDS], dtype=object)
DEPARTMENT = np.array([kind.department for kind in KINDS], dtype=object)
GOES_WITH = np.array(
    [[KIND.tolist().index(name) for name in kind.goes_with] for kind in KINDS], dtype=np.int32
)

# Two words for each of ten groups of colours.
COLOURS = _words(
    "navy, cobalt, forest green, sage, crimson, ruby, mustard, amber, blush, rose pink,"
    "charcoal, black, ivory, cream, plum, violet, turquoise, teal, sand, beige"
)
STYLES = _words(
    "rustic, minimalist, vintage, bohemian, nordic, industrial, floral, playful, art deco"
)
STYLE_SENTENCE = _words(
    "It feels like an old farmhouse., Clean lines and nothing to distract the eye.,"
    "Made after patterns of the fifties., Free and colourful with hand-made details.,"
    "Bright and calm in the Scandinavian way., Raw and honest like a workshop.,"
    "Covered with blossoms and leaves., Cheerful and a little silly on purpose.,"
    "Bold geometry with a touch of luxury."
)
USES = _words(
    "small apartments, family dinners, quiet mornings, long journeys, the garden party,"
    "working from home, a thoughtful gift, cosy evenings, kids"
)
MAKERS = _words(
    "Halden, Brightwater, Oru & Sons, Millefleur, Kestrel, Lumo, Nordhaus, Tamarind, Greywell,"
    "Petit Jour, Foundry 9, Wren, Solveig, Marlowe, Ikebana House, Copperleaf, Juniper, Atelier Bo"
)


@dataclass(frozen=True)
class Attributes:
    """What an item is: one number per item and attribute, all arrays of one length."""

    kind: Index
    colour: Index
    material: Index
    style: Index
    use: Index

    def material_word(self) -> Words:
        """The material's word: which of the five words of the kind's group."""
        group = np.array([kind.materials for kind in KINDS])[self.kind]
        return MATERIALS[group, self.material]


def _capital(words: Words) -> Words:
    return np.array([word[:1].upper() + word[1:] for word in words], dtype=object)


def titles(item: Attributes) -> Words:
    """As in `Rustic stoneware mug, forest green`."""
    style = _capital(STYLES)[item.style]
    return style + " " + item.material_word() + " " + KIND[item.kind] + ", " + COLOURS[item.colour]


def descriptions(item: Attributes) -> Words:
    """Two or three sentences that name every attribute; the wording depends on the item."""
    thing, colour, material = KIND[item.kind], COLOURS[item.colour], item.material_word()
    opening = np.array(["This ", "Our ", "Your "], dtype=object)[(item.colour + item.use) % 3]
    made = np.where(MATERIALS[SCENT][item.material] == material, " with ", " made of ")
    return (
        opening + STYLES[item.style] + " " + thing + made + material + " comes in " + colour + ". "
        + STYLE_SENTENCE[item.style] + " Ideal for " + USES[item.use] + "."
    )  # fmt: skip


QUERIES = 4


def queries(item: Attributes) -> Words:
    """(n, 4): four ways to search for each item."""
    thing = KIND[item.kind]
    return np.stack(
        [
            COLOURS[item.colour] + " " + thing,
            STYLES[item.style] + " " + thing,
            item.material_word() + " " + thing,
            thing + " for " + USES[item.use],
        ],
        axis=1,
    )


# Three openings per number of stars, worst first.
_OPENING = _words(
    "Terrible., I want my money back., Very disappointed.,"
    "Not what I hoped for., Rather poor., I expected more.,"
    "It is all right., Average., Does its job.,"
    "Good buy., I like it., Nearly perfect.,"
    "I love it!, Simply wonderful., Better than expected!"
).reshape(5, 3)
_PRAISE = _words("is beautiful, is exactly my taste, suits our home")
_BLAME = _words("is not my taste, looks dull, does not suit us")


def review_texts(
    item: Attributes, stars: Index, late: NDArray[np.bool_], defect: NDArray[np.bool_], dice: Index
) -> Words:
    """Words that follow the experience: stars, taste, late delivery, defect. `dice` varies them."""
    feature = np.where(
        dice % 2 == 0,
        "The " + COLOURS[item.colour] + " colour ",
        "The " + STYLES[item.style] + " look ",
    )
    opinion = np.where(stars >= 4, _PRAISE[dice % 3], _BLAME[dice % 3])
    taste = np.where(stars == 3, "", " " + feature + opinion + ".")
    delivery = np.where(late, " It arrived much too late.", "")
    fault = np.where(defect, " The " + KIND[item.kind] + " was broken when I opened the box.", "")
    return _OPENING[stars - 1, dice % 3] + taste + delivery + fault


TOPICS = ("late", "defect", "question")
# Before the order's number, between it and the thing, after it.
_ASK = np.array(
    [
        ("Hello. My order ", " has still not arrived. I am waiting for the ", ". Where is it?"),
        ("Hi. In order ", " one thing arrived broken: the ", ". What can I do?"),
        ("Good day. Can I change the address of order ", "? It is for the ", "."),
    ],
    dtype=object,
)
_ANSWER = np.array(
    [
        "I am sorry for the delay. The carrier lost two days and your parcel arrives tomorrow.",
        "I am sorry about that. Please send it back at no cost and we refund you in full.",
        "Thank you for asking. I have changed it for you.",
    ],
    dtype=object,
)
_CLOSE = np.array(
    ["That is not good enough. I will not order again.", "Thank you for the quick help."],
    dtype=object,
)


def message_texts(topic: Index, kind: Index, order: Words, happy: NDArray[np.bool_]) -> list[Words]:
    """Three messages of each conversation: customer asks, agent answers, customer closes."""
    before, between, after = _ASK[topic].T
    question = before + order + between + KIND[kind] + after
    return [question, _ANSWER[topic], _CLOSE[happy.astype(int)]]
