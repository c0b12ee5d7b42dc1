"""The nouns that the model learns to say: each with its kind and the other words for it."""

import re
from dataclasses import dataclass

__all__ = ["KINDS", "NOUNS", "Noun", "noun_in", "plural", "with_article"]

# kind: noun (other words for it, in captions and file names of the pictures or in a user's question), …
LEXICON = """
bird: bird (uccello uccelli), penguin (tux pengwin pinguino), eagle (acquila aquila), swan (cigno cigni), seagull (gull gabbiano), duck (drake),
  goose (gander), chicken (hen pollo), rooster (gallo), owl (gufo civetta), turkey (tacchino), flamingo (flamand), puffin, crow, dove, pigeon, cormorant,
  parrot (lorikeet rosella), peacock (peahen), ostrich, heron, pelican, vulture, blackbird, bluebird, magpie, toucan, lark, cuckoo, quetzal, rhea, crane,
  guinea fowl (guineafowl), chick
fish: fish (pescetto angelfish loach cichlid gourami greyling trout wrasse groper dolphinfish butterflyfish), clownfish, lionfish, seahorse
insect: insect (bug insetto punaisa), butterfly (farfalla farfalle xanthia), bee (abeille), ladybug (coccinella coccinelle coccinellona), dragonfly (libellula libellule damselfly),
  ant (formica formicona formichina), fly, mosquito (moschito zanzara), grasshopper (cavalletta), wasp (hornet), mantis (mantide mante), caterpillar, hoverfly
animal: cat (gatto gatta gattina kitten blackcat vgcats), dog (beagle puppy bulldog labrador lab), horse (cavallo), cow (vacca), bull (toro), pig, sheep (pecora), lamb, goat, ram (stambecco),
  rabbit (bunny coniglio), mouse (topo), rat, squirrel, hamster, chipmunk, beaver, bear (orso ours), koala, kangaroo (canguro), wombat, tiger (tigre tigri), lion (leone), cheetah,
  elephant (elefante), giraffe, zebra, donkey, camel (dromedary), deer (doe fawn wapiti), reindeer (caribou), bison, yak, zebu, gnu, antelope (blackbuck antilope), monkey (tamarin baboon orangutan),
  chimpanzee (chimp), gorilla, fox, wolf, dingo, raccoon, badger, hedgehog, echidna, ferret, otter, marmot, capybara, boar (wildboar), hippopotamus (hippo), rhinoceros (rhino),
  armadillo, bat, whale (bluewhale), orca, dolphin, seal, sea lion, dinosaur (dino dinosauro), lizard (lucertola lucertolona lucertolone ramarro), iguana, turtle, frog (rana frogs),
  snake, scorpion, spider (ragno ragnetto), snail (lumaca), slug, crab, lobster (crawfish), shrimp, mussel, abalone, woodlouse, dragon
fruit: apple (apples), pear (pera), orange, lemon, lime, banana (bananas), grapes (grape), cherry (cherries), strawberry, raspberry, blueberry (blueberries), peach (pesca),
  pineapple, watermelon (pasteque), melon, plum (prune prugna), apricot, mango, kiwi (kiwifruit), avocado, pomegranate, mandarin (mandarine), cherimoya, rambutan
vegetable: tomato, potato, carrot, onion, garlic (garlics), lettuce, corn (cob), pepper (yellowpepper), chili pepper (chile cayennepepperrevisited), pumpkin, eggplant, broccoli, mushroom (champignon cep), yam, squash
food: pizza, hamburger (burger cheeseburger), sandwich, hot dog, bread (toast loaf), croissant, cheese, egg (eggs), cake, pie, muffin, pancakes (pancake), ice cream, candy, candy cane, chocolate,
  bacon, sausage, soup, spaghetti, french fries (fries), taco, burrito, doughnut (donut), cookie (cookies), butter, pudding, walnut, almond, pecan, ginger, lasagna, corn dog (corndog), pretzel
drink: coffee (cuppa), tea, milk, juice, wine (vino), beer (birra), lemonade, soda (coke soft_drink softdrink pop_can), cocktail (martini)
dish: cup (tazza teacup), mug (kubek), glass, bottle (bottiglia), teapot (teiera), kettle, plate, bowl, pitcher, pan (padella), pot, spoon, fork, knife, nutcracker, barrel
plant: flower (flowers fiore daisy anemone), rose (rosa), daffodil, iris, hibiscus (chemparathi), petunia, marigold, tulip, sunflower, lavender, thyme, tree (arbre evergreen sapin), palm tree (palm),
  christmas tree, leaf (leaves foglie shamrock), cactus, pinecone, bamboo, fern, wreath, holly
vehicle: car (redcar sedan beetle automobile dodge hummer chevrolet celebrity shelby skoda cobra toyota blazer), race car (indycar formula_one), bus, truck (lorry), fire truck (fire_engine firetruck), police car, dump truck (dumper terex),
  tow truck (towtruck), garbage truck (garbagetruck), tractor (trattore), motorcycle, bicycle (bicicletta bike vtt), tricycle, train (locomotive caboose boxcar tanker), tram (tramway), airplane (aircraft plane aereo),
  helicopter (elicottero eddiecopter), rocket, space shuttle (shuttle), balloon (balloons ballon ballons baloon), hot air balloon (aerestatico), boat, sailboat (sailboats), ship, tugboat, submarine (bathyscape), ambulance (ambulans), tank, sled (sledge), jet (raptor), satellite
tool: hammer (mallet martello), saw (sega), wrench (chiave_inglese), screwdriver (cacciavite), pliers (plyers), drill (trapano), shovel (spade), axe, ladder, scissors (forbici), paintbrush (brush pennello), pencil (matita), pen (penna),
  marker, highlighter, crayon, ruler, stapler (pinzatrice), paperclip (paper_clip), tape measure (measuring_tape), toolbox, magnifying glass (magnifying magnifier), compass (bussola), sword (spada), gun (pistola), shield, bomb, key, padlock (lock lucchetto), clothespin, anchor,
  syringe, thermometer, stethoscope, bandage, thumbtack (pushpin), cement mixer (cementmixer)
instrument: guitar (chitarra), electric guitar, violin, cello, trumpet, piano, drum (tom africandrum), drum kit (drumkit), harp, bassoon, cymbal, saxophone, flute, accordion
clothing: hat (cappello), fedora, top hat (tophat), baseball cap (baseballcap), sombrero, crown (corona), helmet (casco), shirt (tshirt), jacket, pants, dress (vestito), sock (calza stocking), shoe (shoes boot boots scarpa), glove, scarf, tie, glasses (occhiali), sunglasses, umbrella (ombrello ombrelloni), ring (anello), button, necklace, pantyhose
device: computer, laptop (notebook), keyboard, monitor (lcd), printer (stampante), telephone (phone telefono cell cellphone handphone), camera (fotografica nikon), camcorder (telecamera cinepresa), television (televisore), radio, robot, calculator, microphone (microfono), headphones, battery,
  floppy disk (floppy), joystick (joypad gamepad), cassette, lightbulb (light_bulb bulb lampadina cfbulb), lamp (lampada lamppost), flashlight (torch), clock (orologio), watch, alarm clock, iron (ferro_da_stiro), fan, vacuum cleaner (vacuum), candle (candela), antenna, compact disc (cd dvd)
furniture: chair (sedia), armchair (poltrona), couch (sofa), table (tavolo), desk, bed (letto), toilet, bathtub, door (porta), window (finestra), bookshelf, mailbox (post_box), trash can (garbagecan trash cestino garbage_can wheelie_bin compost_bin)
building: house (casa home homes villa chalet cottage), castle, church (chiesa cathedral chiesetta), tower (torre), lighthouse (faro), windmill, factory, tent, igloo, pyramid, bridge (ponte), barn, fountain, eiffel tower (eiffel), statue, well (wishing_well), gate, school, tepee, tombstone (grave gravestone headstone)
toy: ball (palla), soccer ball (soccer), basketball, baseball, football, tennis ball, volleyball, tennis racket (racket racchetta), golf ball, trophy, teddy bear (teddy teddy_bear), doll (bambola), snowman, puppet, dice, boomerang, kite, surfboard, rubber duck (rubberduck), piggy bank (piggybank), jack-o-lantern (jackolantern), dreidel (dreydl), party hat, party horn
thing: book (libro books), newspaper, envelope (mail busta), box (scatola crate carton), bag (borsa tote paperbag), suitcase (valigia luggage), basket (cesto), gift (present), bell (campana), bow, flag (bandiera), star, heart (cuore), moon (luna), sun (sole), cloud (nuvola clouds), planet (saturn jupiter mars neptune uranus venus), earth, globe, rainbow, lightning, fire (flame fiamma), skull (teschio),
  ghost, bone, tooth, eye, hand, foot, mouth, brain, coin (nickel penny quarter dime), money, map, wheel (ruota), traffic cone (traffic_cone), traffic light (stoplight semaforo), stop sign, fireworks, pill, cross, stamp, snowflake, feather, chain, scroll (parchment), wheelbarrow, binoculars, menorah, stone
person: man (uomo), woman (donna), boy (bambino), girl (ragazza bambina), baby, santa claus (santa), angel (angelo), mermaid, firefighter (fireman), astronaut (spacewalk), clown, king, queen, princess (principessa), witch, pirate, knight, wizard, cowboy
"""

PLURALS = {"mouse": "mice", "goose": "geese", "fish": "fish", "sheep": "sheep", "deer": "deer", "wolf": "wolves", "leaf": "leaves", "knife": "knives",
           "man": "men", "woman": "women", "foot": "feet", "tooth": "teeth", "shrimp": "shrimp", "bison": "bison", "reindeer": "reindeer",
           "firefighter": "firefighters", "person": "people", "clownfish": "clownfish", "lionfish": "lionfish", "woodlouse": "woodlice", "ox": "oxen", "dice": "dice",
           "scissors": "scissors", "pliers": "pliers", "pants": "pants", "grapes": "grapes", "pancakes": "pancakes", "french fries": "french fries",
           "sunglasses": "sunglasses", "glasses": "glasses", "fireworks": "fireworks", "binoculars": "binoculars", "headphones": "headphones"}  # fmt: skip
MASS = {"corn", "garlic", "lettuce", "broccoli", "bread", "cheese", "bacon", "soup", "spaghetti", "butter", "chocolate", "ginger", "lasagna", "coffee",
        "tea", "milk", "juice", "wine", "beer", "lemonade", "soda", "candy", "lavender", "thyme", "bamboo", "holly", "money", "lightning", "fire",
        "santa claus", "furniture", "food", "clothing", "fruit"}  # fmt: skip


@dataclass(frozen=True)
class Noun:
    """One thing that a picture may show: its name, its kind, and other words for it."""

    name: str
    kind: str
    aliases: tuple[str, ...] = ()


def _read(lexicon: str) -> dict[str, Noun]:
    nouns = {}
    for line in re.sub(r"\n  ", " ", lexicon.strip()).splitlines():
        kind, entries = line.split(":", 1)
        for entry in re.split(r",\s*", entries.strip().rstrip(",")):
            name, _, aliases = entry.partition(" (")
            words = tuple(alias.replace("_", " ") for alias in aliases.rstrip(")").split())
            nouns[name] = Noun(name, kind, words)
    return nouns


NOUNS = _read(LEXICON)
KINDS = sorted({noun.kind for noun in NOUNS.values()})
_WORDS = {word: noun for noun in NOUNS.values() for word in (noun.name.replace("-", " "), *noun.aliases)}
_LONGEST = max(len(word.split()) for word in _WORDS)
_CUT = re.compile(r"\b(with|on|in|of|under|from|for|by|con|sul|di|del|without)\b")


def noun_in(caption: str) -> Noun | None:
    """The noun that a caption or a file name ends on, before any "with …" or "on …"; None: no known one, or several."""
    words = re.findall(r"[a-z]+", caption.lower())
    text = " ".join(words)
    if " and " in f" {text} " or " e " in f" {text} ":
        return None
    for part in (_CUT.split(text)[0], text):
        found = _last(part.split())
        if found is not None:
            return found
    return None


def _last(words: list[str]) -> Noun | None:
    for end in range(len(words), 0, -1):
        for start in range(max(0, end - _LONGEST), end):
            phrase = " ".join(words[start:end])
            for form in (phrase, phrase.removesuffix("s")):
                if form in _WORDS:
                    return _WORDS[form]
    return None


def plural(name: str) -> str:
    """Several of a thing."""
    if name in PLURALS or name in MASS:
        return PLURALS.get(name, name)
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    if name.endswith(("s", "x", "ch", "sh", "potato", "tomato")):
        return name + "es"
    return name + "s"


def with_article(name: str) -> str:
    """One of a thing: "an owl", "a cat", "grapes"."""
    if name in MASS or plural(name) == name and name.endswith("s"):
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
